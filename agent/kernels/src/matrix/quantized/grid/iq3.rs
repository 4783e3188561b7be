//! The formats IQ3_XXS and IQ3_S. A point is the sizes of four numbers.

use super::super::decoded::read_decoded_blocks;
use super::points::{IQ3_S, IQ3_S_SIZES, IQ3_XXS, IQ3_XXS_SIZES};
use super::*;
use crate::simd::int8::{FourPoints, PointIndex};

/// Blocks of about three bits. In a file, a block is an f16, an index of eight bits for each four columns, and a word with
/// signs and a scale for each 32.
#[derive(Clone, Copy)]
pub(in crate::matrix::quantized) struct Iq3Xxs;

/// In a file, a block is an f16, for each four columns the low eight bits of an index, then for each 32 columns eight
/// high bits, a sign for each column, and a scale of four bits for each 32.
#[derive(Clone, Copy)]
pub(in crate::matrix::quantized) struct Iq3S;

/// Factor of the scales of IQ3_XXS: a scale of four bits is a half and a number, and a half of the f16.
const XXS_FACTOR: f32 = 0.25;

// A panel's block holds sixteen f16, and then, by group, the indices by four columns and the other parts of a file's block.
const INDEX_BYTES: usize = GROUP_VECTORS * LANES;
const XXS_GROUP_BYTES: usize = INDEX_BYTES + 4 * LANES;
/// Bytes of the scales of IQ3_S. The scales of two groups are in one byte.
const S_SCALE_BYTES: usize = GROUPS / 2 * LANES;
const S_HIGH_BITS_OFFSET: usize = INDEX_BYTES;
const S_SIGNS_OFFSET: usize = S_HIGH_BITS_OFFSET + LANES;
const S_GROUP_BYTES: usize = S_SIGNS_OFFSET + EIGHTS * LANES;
const S_GROUPS_OFFSET: usize = F16_BYTES + S_SCALE_BYTES;

/// Reads the indices of a group of IQ3_S.
#[inline(always)]
fn read_s_indices(panel: &[u8], from: usize) -> [[WideIndex<512>; LANES]; GROUP_VECTORS] {
    let low: &[[u8; LANES]; GROUP_VECTORS] = rows_at(panel, from);
    let high_bits: &[u8; LANES] = array_at(panel, from + S_HIGH_BITS_OFFSET);
    let mut indices = [[WideIndex::default(); LANES]; GROUP_VECTORS];
    for part in 0..GROUP_VECTORS / 4 {
        let high = shift_bytes(high_bits, 4 * part);
        // The compiler unrolls a loop this short, and knows the shifts.
        for four in 0..4 {
            let (low, indices) = (&low[4 * part + four], &mut indices[4 * part + four]);
            for lane in 0..LANES {
                indices[lane] = WideIndex::new(u16::from(low[lane]) | u16::from(high[lane] >> four) << 8);
            }
        }
    }
    indices
}

/// Returns the products of a group of sixteen rows and one row of activations.
#[inline(always)]
fn multiply_row<S: Int8Simd, I: PointIndex<N>, const N: usize>(
    s: S,
    points: &[u32; N],
    indices: &[[I; LANES]; GROUP_VECTORS],
    signs: &RowSigns,
    x: &ActivationGroup,
) -> S::I {
    let mut sums = s.no_sums();
    for ((indices, signs), x) in halves(indices).as_chunks().0.iter().zip(halves(signs)).zip(x.eights()) {
        sums = s.add_fours(sums, points, indices, signs, x);
    }
    s.finish_sums(sums, &[0; LANES])
}

/// Looks up the points of the vectors `2 eight` and `2 eight + 1`, and stores their numbers.
#[inline(always)]
fn store_points<S: Int8Simd, const N: usize>(
    s: S,
    points: &FourPoints<N>,
    indices: &Indices,
    eight: usize,
    signs: &GroupSigns,
    vectors: &mut [[u8; VECTOR_BYTES]],
) {
    for (half, sizes) in s.look_up_fours(points, indices).into_iter().enumerate() {
        store_signed(s, sizes, &signs[half][eight], &mut vectors[2 * eight + half]);
    }
}

impl BlockLayout for Iq3Xxs {
    const COLUMNS: usize = decoded::COLUMNS;
    const FILE_BYTES: usize = 98;
    const PANEL_BYTES: usize = F16_BYTES + GROUPS * XXS_GROUP_BYTES;
    const ZERO_POINT: i32 = SIGN_OFFSET as i32;
    read_decoded_blocks!(1);

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        for group in 0..GROUPS {
            let to = &mut panel[F16_BYTES + group * XXS_GROUP_BYTES..];
            pack_bytes(&block[2 + GROUP_VECTORS * group..][..GROUP_VECTORS], lane, to);
            pack_word(*array_at(block, 66 + 4 * group), lane, &mut to[INDEX_BYTES..]);
        }
    }

    #[inline(always)]
    fn decode<S: Int8Simd>(s: S, panel: &[u8], to: &mut DecodedBlock) {
        let f16 = load_f16(s, panel, 0);
        for group in 0..GROUPS {
            let from = F16_BYTES + group * XXS_GROUP_BYTES;
            let (signs, steps) = read_words(panel, from + INDEX_BYTES);
            let signs = spread_signs(&signs);
            for eight in 0..EIGHTS {
                let indices = widen_indices(rows_at(panel, from + 2 * eight * LANES));
                store_points(s, &IQ3_XXS, &indices, eight, &signs, to.group(group));
            }
            to.store_scales(s.float(), group, odd_scales(s, f16, &steps, XXS_FACTOR));
        }
    }

    fn has_row_product<S: Int8Simd>() -> bool {
        S::LOADS_FOURS
    }
    #[inline(always)]
    fn add_row<S: Int8Simd>(s: S, panel: &[u8], x: &[ActivationGroup], mut sum: Float<S>) -> Float<S> {
        let f16 = load_f16(s, panel, 0);
        let mut words = [([[0; LANES]; EIGHTS], [0; LANES]); GROUPS];
        for (group, words) in words.iter_mut().enumerate() {
            *words = read_words(panel, F16_BYTES + group * XXS_GROUP_BYTES + INDEX_BYTES);
        }
        put_in_memory(&words);
        for (group, ((signs, steps), x)) in words.iter().zip(x).enumerate() {
            let indices = rows_at(panel, F16_BYTES + group * XXS_GROUP_BYTES);
            let dots = multiply_row(s, &IQ3_XXS_SIZES, indices, signs, x);
            sum = add_scaled_row(s, odd_scales(s, f16, steps, XXS_FACTOR), x, dots, sum);
        }
        sum
    }
}

impl BlockLayout for Iq3S {
    const COLUMNS: usize = decoded::COLUMNS;
    const FILE_BYTES: usize = 110;
    const PANEL_BYTES: usize = S_GROUPS_OFFSET + GROUPS * S_GROUP_BYTES;
    const ZERO_POINT: i32 = SIGN_OFFSET as i32;
    read_decoded_blocks!(1);

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        pack_bytes(&block[106..], lane, &mut panel[F16_BYTES..]);
        for group in 0..GROUPS {
            let to = &mut panel[S_GROUPS_OFFSET + group * S_GROUP_BYTES..];
            pack_bytes(&block[2 + GROUP_VECTORS * group..][..GROUP_VECTORS], lane, to);
            to[S_HIGH_BITS_OFFSET + lane] = block[66 + group];
            pack_bytes(&block[74 + EIGHTS * group..][..EIGHTS], lane, &mut to[S_SIGNS_OFFSET..]);
        }
    }

    #[inline(always)]
    fn decode<S: Int8Simd>(s: S, panel: &[u8], to: &mut DecodedBlock) {
        let f16 = load_f16(s, panel, 0);
        for group in 0..GROUPS {
            let from = S_GROUPS_OFFSET + group * S_GROUP_BYTES;
            let signs = spread_signs(rows_at(panel, from + S_SIGNS_OFFSET));
            let high_bits: &[u8; LANES] = array_at(panel, from + S_HIGH_BITS_OFFSET);
            for eight in 0..EIGHTS {
                let (low, mut indices) = (rows_at::<2>(panel, from + 2 * eight * LANES), [0; 2 * LANES]);
                for half in 0..2 {
                    let high = shift_bytes(high_bits, 2 * eight + half);
                    for lane in 0..LANES {
                        indices[half * LANES + lane] = u16::from(low[half][lane]) | u16::from(high[lane] & 1) << 8;
                    }
                }
                store_points(s, &IQ3_S, &indices, eight, &signs, to.group(group));
            }
            let steps = shift_bytes(array_at(panel, F16_BYTES + group / 2 * LANES), group % 2 * 4);
            to.store_scales(s.float(), group, odd_scales(s, f16, &steps, 1.0));
        }
    }

    fn has_row_product<S: Int8Simd>() -> bool {
        S::LOADS_FOURS
    }
    #[inline(always)]
    fn add_row<S: Int8Simd>(s: S, panel: &[u8], x: &[ActivationGroup], mut sum: Float<S>) -> Float<S> {
        let f16 = load_f16(s, panel, 0);
        let mut indices = [[[WideIndex::default(); LANES]; GROUP_VECTORS]; GROUPS];
        for (group, indices) in indices.iter_mut().enumerate() {
            *indices = read_s_indices(panel, S_GROUPS_OFFSET + group * S_GROUP_BYTES);
        }
        put_in_memory(&indices);
        for (group, (indices, x)) in indices.iter().zip(x).enumerate() {
            let signs = rows_at(panel, S_GROUPS_OFFSET + group * S_GROUP_BYTES + S_SIGNS_OFFSET);
            let dots = multiply_row(s, &IQ3_S_SIZES, indices, signs, x);
            let steps = shift_bytes(array_at(panel, F16_BYTES + group / 2 * LANES), group % 2 * 4);
            sum = add_scaled_row(s, odd_scales(s, f16, &steps, 1.0), x, dots, sum);
        }
        sum
    }
}
