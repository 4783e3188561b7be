//! Activations in eight bits. Every 32 columns of a row share a scale, which is their greatest absolute value over 127.

use super::GROUP_SIZE;
use crate::context::Context;
use crate::shared_slice::SharedSlice;

/// Groups per task.
const GROUPS_PER_TASK: usize = 64;

/// 32 quantized columns of one row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ActivationGroup {
    /// Packs of four signed bytes, least significant first. None of the bytes is -128.
    pub(super) quads: [i32; GROUP_SIZE / 4],
    pub(super) scale: f32,
    /// Sum of the bytes times the scale, negated. The product multiplies the minimums of 32 weights by it.
    pub(super) negative_sum: f32,
    /// Sums of the bytes of the two halves.
    pub(super) sums: [i32; 2],
    /// Sums of the first eight bytes of the two halves.
    pub(super) first_sums: [i32; 2],
}

impl ActivationGroup {
    /// Returns the bytes by half, and by eight.
    #[inline(always)]
    pub(super) fn eights(&self) -> &[[[i32; 2]; 2]] {
        self.quads.as_chunks().0.as_chunks().0
    }
}

/// Quantizes `x` `[tokens, columns]` to `[tile][group][height]`, with `lead` zeros before each row, and zeros after it
/// and where there is no row.
pub(super) fn quantize(
    ctx: &Context,
    x: &[f32],
    columns: usize,
    lead: usize,
    groups: usize,
    height: usize,
) -> Vec<ActivationGroup> {
    let tiles = (x.len() / columns).div_ceil(height);
    let mut quantized = vec![ActivationGroup::default(); tiles * groups * height];
    let shared = SharedSlice::new(&mut quantized);
    ctx.pool().for_each_chunk(tiles * groups, GROUPS_PER_TASK, &|range| {
        for place in range {
            let (tile, group) = (place / groups, place % groups);
            // SAFETY: each place is visited once.
            let part = unsafe { shared.slice_mut(place * height..(place + 1) * height) };
            let first = (group * GROUP_SIZE).saturating_sub(lead).min(columns);
            let last = ((group + 1) * GROUP_SIZE).saturating_sub(lead).min(columns);
            let skip = lead.saturating_sub(group * GROUP_SIZE).min(GROUP_SIZE);
            let rows = x[tile * height * columns..].chunks_exact(columns);
            for (to, row) in part.iter_mut().zip(rows) {
                let mut values = [0.0; GROUP_SIZE];
                values[skip..skip + last - first].copy_from_slice(&row[first..last]);
                *to = round_group(&values);
            }
        }
    });
    quantized
}

/// Rounds to nearest, ties to even, with the same operations on every machine. A value that is not finite makes the
/// scale so.
fn round_group(values: &[f32; GROUP_SIZE]) -> ActivationGroup {
    /// Number whose addition rounds a small number to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let greatest = values.iter().fold(0f32, |most, x| if x.abs() > most { x.abs() } else { most });
    let scale = greatest / 127.0;
    let inverse = if greatest > 0.0 { 127.0 / greatest } else { 0.0 };
    let mut bytes = [0i8; GROUP_SIZE];
    for (byte, x) in bytes.iter_mut().zip(values) {
        *byte = ((x * inverse + ROUND).to_bits() as i32 - ROUND.to_bits() as i32).clamp(-127, 127) as i8;
    }
    let poison = values.iter().fold(0f32, |sum, x| sum + x * 0.0);
    let mut group = ActivationGroup { scale: scale + poison, ..ActivationGroup::default() };
    for (half, bytes) in bytes.chunks_exact(GROUP_SIZE / 2).enumerate() {
        let sum = |bytes: &[i8]| bytes.iter().map(|byte| i32::from(*byte)).sum();
        (group.sums[half], group.first_sums[half]) = (sum(bytes), sum(&bytes[..GROUP_SIZE / 4]));
    }
    for (quad, bytes) in group.quads.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *quad = i32::from_le_bytes(bytes.map(i8::cast_unsigned));
    }
    group.negative_sum = -(group.scale * (group.sums[0] + group.sums[1]) as f32);
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(group: &ActivationGroup) -> Vec<i8> {
        group.quads.iter().flat_map(|quad| quad.to_le_bytes()).map(u8::cast_signed).collect()
    }

    #[test]
    fn values_round_to_the_scale_of_their_group() {
        let mut values = [0.0; GROUP_SIZE];
        values[..4].copy_from_slice(&[127.0, -127.0, 2.5, -3.4]);
        values[31] = 0.6;
        let group = round_group(&values);
        let bytes = bytes(&group);
        assert_eq!((group.scale, &bytes[..4], bytes[31]), (1.0, &[127, -127, 2, -3][..], 1));
        assert_eq!((group.sums, group.negative_sum), ([-1, 1], 0.0));
        assert_eq!(round_group(&[0.0; GROUP_SIZE]).scale, 0.0);
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values[7] = wrong;
            assert!(!round_group(&values).scale.is_finite(), "{wrong}");
        }
    }

    #[test]
    fn rows_start_at_their_offset_in_the_first_block() {
        let ctx = Context::cpu(2).unwrap();
        // Two rows of 40 columns that begin 30 columns into the first of three groups, in tiles of four.
        let x: Vec<f32> = (0..80).map(|i| (i % 40) as f32 + 1.0).collect();
        let groups = quantize(&ctx, &x, 40, 30, 3, 4);
        assert_eq!(groups.len(), 12);
        assert_eq!(bytes(&groups[0])[28..], [0, 0, 64, 127]);
        assert_eq!((groups[4].scale, bytes(&groups[4])[31]), (34.0 / 127.0, 127));
        assert_eq!((groups[8].scale, bytes(&groups[8])[5], bytes(&groups[8])[6]), (40.0 / 127.0, 127, 0));
        assert_eq!((groups[1].scale, groups[2].scale), (groups[0].scale, 0.0));
    }
}
