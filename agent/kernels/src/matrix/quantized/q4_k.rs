//! The formats Q4_K and Q5_K: blocks of 256 columns. Each group of 32 columns has a scale and a minimum of six bits,
//! which are multiplied by one f16 of each kind.

use super::GROUP_SIZE;
use super::activations::ActivationGroup;
use super::gemm::{add_scaled_row, multiply_group};
use super::layout::{
    BlockLayout, Float, NIBBLE_BYTES, SINGLE_BIT_BYTES, array_at, load_f16, load_nibbles, load_single_bits, store_f16,
    store_nibbles, store_single_bits,
};
use crate::simd::int8::Int8Simd;
use crate::simd::{LANES, Simd};

const COLUMNS: usize = 256;
const GROUPS: usize = COLUMNS / GROUP_SIZE;

/// Blocks of four bits. In a file, a block is an f16 for the scales and one for the minimums, 12 bytes with the scales
/// and minimums of the groups, and 128 bytes of quants.
#[derive(Clone, Copy)]
pub(super) struct Q4K;

/// Blocks of five bits. In a file, a block is that of Q4_K with 32 bytes before the last 128: bit `g` of byte `c` is
/// the fifth bit of column `32 g + c`.
#[derive(Clone, Copy)]
pub(super) struct Q5K;

// A panel's block holds sixteen f16 of each kind, then the scales and minimums as bytes by group, then the quants by
// group.
const MINIMUMS_OFFSET: usize = 2 * LANES;
const GROUP_SCALES_OFFSET: usize = 4 * LANES;
const GROUP_MINIMUMS_OFFSET: usize = GROUP_SCALES_OFFSET + GROUPS * LANES;
const QUANTS_OFFSET: usize = GROUP_MINIMUMS_OFFSET + GROUPS * LANES;

fn store_scales(block: &[u8], lane: usize, panel: &mut [u8]) {
    store_f16(&block[..2], lane, panel, 0);
    store_f16(&block[2..4], lane, panel, MINIMUMS_OFFSET);
    let packed = &block[4..16];
    for group in 0..GROUPS {
        // The six bits of the first four groups are in one byte each. Those of the other groups are split into four and
        // two.
        let (scale, minimum) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => {
                let low = packed[group + 4];
                (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
            }
        };
        panel[GROUP_SCALES_OFFSET + group * LANES + lane] = scale;
        panel[GROUP_MINIMUMS_OFFSET + group * LANES + lane] = minimum;
    }
}

/// Returns the low four bits of a column of a group. Two groups share 32 bytes.
fn low_bits(quants: &[u8], group: usize, column: usize) -> u8 {
    quants[group / 2 * GROUP_SIZE + column] >> (group % 2 * 4) & 0x0F
}

#[inline(always)]
fn scales<S: Int8Simd>(s: S, panel: &[u8], group: usize) -> Float<S> {
    let steps = s.widen_u8(array_at(panel, GROUP_SCALES_OFFSET + group * LANES));
    s.float().mul(load_f16(s, panel, 0), steps)
}

#[inline(always)]
fn minimums<S: Int8Simd>(s: S, panel: &[u8], group: usize) -> Float<S> {
    let steps = s.widen_u8(array_at(panel, GROUP_MINIMUMS_OFFSET + group * LANES));
    s.float().mul(load_f16(s, panel, MINIMUMS_OFFSET), steps)
}

impl BlockLayout for Q4K {
    const COLUMNS: usize = COLUMNS;
    const FILE_BYTES: usize = 144;
    const PANEL_BYTES: usize = QUANTS_OFFSET + GROUPS * NIBBLE_BYTES;
    const MAX_QUANT: u8 = 15;
    const SCALES_PER_GROUP: usize = 1;
    const HAS_MINIMUMS: bool = true;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_scales(block, lane, panel);
        for group in 0..GROUPS {
            let to = &mut panel[QUANTS_OFFSET + group * NIBBLE_BYTES..];
            store_nibbles(|column| low_bits(&block[16..], group, column), lane, to);
        }
    }
    fn has_row_product<S: Int8Simd>() -> bool {
        true
    }
    #[inline(always)]
    fn add_row<S: Int8Simd>(s: S, panel: &[u8], x: &[ActivationGroup], mut sum: Float<S>) -> Float<S> {
        let f = s.float();
        let (scale, minimum) = (load_f16(s, panel, 0), load_f16(s, panel, MINIMUMS_OFFSET));
        for (group, x) in x.iter().enumerate() {
            let scales = f.mul(scale, s.widen_u8(array_at(panel, GROUP_SCALES_OFFSET + group * LANES)));
            sum = add_scaled_row(s, scales, x, multiply_group::<S, Self>(s, panel, group, x), sum);
            let minimums = f.mul(minimum, s.widen_u8(array_at(panel, GROUP_MINIMUMS_OFFSET + group * LANES)));
            sum = f.fma(minimums, f.splat(x.negative_sum), sum);
        }
        sum
    }
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, panel: &[u8], group: usize, _half: usize) -> Float<S> {
        scales(s, panel, group)
    }
    #[inline(always)]
    fn minimums<S: Int8Simd>(s: S, panel: &[u8], group: usize, _half: usize) -> Float<S> {
        minimums(s, panel, group)
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        load_nibbles::<S, HALF>(s, panel, QUANTS_OFFSET + group * NIBBLE_BYTES, quad)
    }
}

impl BlockLayout for Q5K {
    const COLUMNS: usize = COLUMNS;
    const FILE_BYTES: usize = 176;
    const PANEL_BYTES: usize = QUANTS_OFFSET + GROUPS * (NIBBLE_BYTES + SINGLE_BIT_BYTES);
    const MAX_QUANT: u8 = 31;
    const SCALES_PER_GROUP: usize = 1;
    const HAS_MINIMUMS: bool = true;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_scales(block, lane, panel);
        let (fifth_bits, quants) = block[16..].split_at(GROUP_SIZE);
        for group in 0..GROUPS {
            let to = &mut panel[QUANTS_OFFSET + group * (NIBBLE_BYTES + SINGLE_BIT_BYTES)..];
            store_nibbles(|column| low_bits(quants, group, column), lane, to);
            store_single_bits(|column| fifth_bits[column] >> group, lane, &mut to[NIBBLE_BYTES..]);
        }
    }
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, panel: &[u8], group: usize, _half: usize) -> Float<S> {
        scales(s, panel, group)
    }
    #[inline(always)]
    fn minimums<S: Int8Simd>(s: S, panel: &[u8], group: usize, _half: usize) -> Float<S> {
        minimums(s, panel, group)
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        let from = QUANTS_OFFSET + group * (NIBBLE_BYTES + SINGLE_BIT_BYTES);
        let fifth = load_single_bits::<S, HALF>(s, panel, from + NIBBLE_BYTES, quad, 4);
        s.or(load_nibbles::<S, HALF>(s, panel, from, quad), fifth)
    }
}
