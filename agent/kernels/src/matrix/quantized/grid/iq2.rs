//! The formats IQ2_XXS, IQ2_XS and IQ2_S. A point is the sizes of eight numbers.

use super::super::decoded::read_decoded_blocks;
use super::points::{IQ2_S, IQ2_S_SIZES, IQ2_XS, IQ2_XS_SIZES, IQ2_XXS, IQ2_XXS_SIZES};
use super::*;
use crate::simd::int8::EightPoints;

/// Blocks of about two bits. In a file, a block is an f16 and, for each 32 columns, four indices of eight bits and a word
/// with signs and a scale.
#[derive(Clone, Copy)]
pub(in crate::matrix::quantized) struct Iq2Xxs;

/// In a file, a block is an f16, for each eight columns an index of nine bits and signs of seven, and for each sixteen
/// columns a scale of four bits.
#[derive(Clone, Copy)]
pub(in crate::matrix::quantized) struct Iq2Xs;

/// In a file, a block is an f16, for each eight columns the low eight bits of an index and eight signs, then for each eight
/// columns the two high bits, and for each sixteen columns a scale of four bits.
#[derive(Clone, Copy)]
pub(in crate::matrix::quantized) struct Iq2S;

/// Factor of all scales: a scale of four bits is a half and a number, and a quarter of the f16.
const FACTOR: f32 = 0.125;

// A panel's block holds sixteen f16, and then, by group, the indices by eight columns and the other parts of a file's block.
const INDEX_BYTES: usize = EIGHTS * LANES;
const XXS_GROUP_BYTES: usize = INDEX_BYTES + 4 * LANES;
const XS_GROUP_BYTES: usize = 2 * INDEX_BYTES + LANES;
const S_SIGNS_OFFSET: usize = INDEX_BYTES;
const S_HIGH_BITS_OFFSET: usize = S_SIGNS_OFFSET + EIGHTS * LANES;
const S_SCALES_OFFSET: usize = S_HIGH_BITS_OFFSET + LANES;
const S_GROUP_BYTES: usize = S_SCALES_OFFSET + LANES;

/// Looks up the points `2 pair` and `2 pair + 1` of sixteen rows, and stores their numbers.
#[inline(always)]
fn store_points<S: Int8Simd, const N: usize>(
    s: S,
    points: &EightPoints<N>,
    indices: &Indices,
    pair: usize,
    signs: &GroupSigns,
    vectors: &mut [[u8; VECTOR_BYTES]],
) {
    for (eight, [first, second]) in (2 * pair..).zip(s.look_up_eights(points, indices)) {
        store_signed(s, first, &signs[0][eight], &mut vectors[2 * eight]);
        store_signed(s, second, &signs[1][eight], &mut vectors[2 * eight + 1]);
    }
}

/// Reads the indices of a group of IQ2_XS, and the signs.
#[inline(always)]
fn read_xs_codes(panel: &[u8], from: usize) -> ([[WideIndex<512>; LANES]; EIGHTS], RowSigns) {
    let (mut indices, mut codes) = ([[WideIndex::default(); LANES]; EIGHTS], [[0; LANES]; EIGHTS]);
    for eight in 0..EIGHTS {
        let words = read_u16(panel, from + 2 * eight * LANES);
        for lane in 0..LANES {
            indices[eight][lane] = WideIndex::new(words[lane]);
            codes[eight][lane] = (words[lane] >> 9) as u8;
        }
    }
    (indices, complete_signs(&codes))
}

/// Reads the indices of a group of IQ2_S.
#[inline(always)]
fn read_s_indices(panel: &[u8], from: usize) -> [[WideIndex<1024>; LANES]; EIGHTS] {
    let low: &[[u8; LANES]; EIGHTS] = rows_at(panel, from);
    let mut high: [u8; LANES] = *array_at(panel, from + S_HIGH_BITS_OFFSET);
    let mut indices = [[WideIndex::default(); LANES]; EIGHTS];
    for (low, indices) in low.iter().zip(&mut indices) {
        for lane in 0..LANES {
            indices[lane] = WideIndex::new(u16::from(low[lane]) | u16::from(high[lane]) << 8);
        }
        high = shift_bytes(&high, 2);
    }
    indices
}

/// Multiplies a group of sixteen rows by one row of activations, and adds the product to `sum`. `steps` are those of
/// [`store_half_scales`].
#[inline(always)]
fn add_halves<S: Int8Simd, const N: usize>(
    s: S,
    points: &[u64; N],
    (indices, signs): (&[[WideIndex<N>; LANES]; EIGHTS], &RowSigns),
    (f16, steps): (Float<S>, &[u8; LANES]),
    x: &ActivationGroup,
    sum: Float<S>,
) -> Float<S> {
    let (f, mut steps) = (s.float(), *steps);
    let mut both = f.splat(0.0);
    for ((indices, signs), eights) in halves(indices).iter().zip(halves(signs)).zip(x.eights()) {
        let sums = s.add_eights(s.no_sums(), points, indices, Some(signs), eights);
        let scales = odd_scales(s, f16, &steps, FACTOR);
        both = f.fma(scales, s.widen(s.finish_sums(sums, &[0; LANES])), both);
        steps = shift_bytes(&steps, 4);
    }
    f.fma(both, f.splat(x.scale), sum)
}

/// Stores the scales of both halves of a group. `steps` has those of the second half in the high bits.
#[inline(always)]
fn store_half_scales<S: Int8Simd>(s: S, f16: Float<S>, steps: &[u8; LANES], group: usize, to: &mut DecodedBlock) {
    to.store_scales(s.float(), 2 * group, odd_scales(s, f16, steps, FACTOR));
    to.store_scales(s.float(), 2 * group + 1, odd_scales(s, f16, &shift_bytes(steps, 4), FACTOR));
}

impl BlockLayout for Iq2Xxs {
    const COLUMNS: usize = decoded::COLUMNS;
    const FILE_BYTES: usize = 66;
    const PANEL_BYTES: usize = F16_BYTES + GROUPS * XXS_GROUP_BYTES;
    const ZERO_POINT: i32 = SIGN_OFFSET as i32;
    read_decoded_blocks!(1);

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        for (group, from) in block[2..].as_chunks::<8>().0.iter().enumerate() {
            let to = &mut panel[F16_BYTES + group * XXS_GROUP_BYTES..];
            pack_bytes(&from[..EIGHTS], lane, to);
            pack_word([from[4], from[5], from[6], from[7]], lane, &mut to[INDEX_BYTES..]);
        }
    }

    #[inline(always)]
    fn decode<S: Int8Simd>(s: S, panel: &[u8], to: &mut DecodedBlock) {
        let f16 = load_f16(s, panel, 0);
        for group in 0..GROUPS {
            let from = F16_BYTES + group * XXS_GROUP_BYTES;
            let (signs, steps) = read_words(panel, from + INDEX_BYTES);
            let signs = spread_signs(&signs);
            for pair in 0..2 {
                let indices = widen_indices(rows_at(panel, from + 2 * pair * LANES));
                store_points(s, &IQ2_XXS, &indices, pair, &signs, to.group(group));
            }
            to.store_scales(s.float(), group, odd_scales(s, f16, &steps, FACTOR));
        }
    }

    fn has_row_product<S: Int8Simd>() -> bool {
        true
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
            let indices = rows_at::<EIGHTS>(panel, F16_BYTES + group * XXS_GROUP_BYTES);
            let mut sums = s.no_sums();
            for ((indices, signs), x) in halves(indices).iter().zip(halves(signs)).zip(x.eights()) {
                sums = s.add_eights(sums, &IQ2_XXS_SIZES, indices, Some(signs), x);
            }
            let scales = odd_scales(s, f16, steps, FACTOR);
            sum = add_scaled_row(s, scales, x, s.finish_sums(sums, &[0; LANES]), sum);
        }
        sum
    }
}

impl BlockLayout for Iq2Xs {
    const COLUMNS: usize = decoded::COLUMNS;
    const FILE_BYTES: usize = 74;
    const PANEL_BYTES: usize = F16_BYTES + GROUPS * XS_GROUP_BYTES;
    const ZERO_POINT: i32 = SIGN_OFFSET as i32;
    read_decoded_blocks!(2);

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        for group in 0..GROUPS {
            let to = &mut panel[F16_BYTES + group * XS_GROUP_BYTES..];
            for eight in 0..EIGHTS {
                let code = &block[2 + 2 * (EIGHTS * group + eight)..][..2];
                to[2 * (eight * LANES + lane)..][..2].copy_from_slice(code);
            }
            to[2 * INDEX_BYTES + lane] = block[66 + group];
        }
    }

    #[inline(always)]
    fn decode<S: Int8Simd>(s: S, panel: &[u8], to: &mut DecodedBlock) {
        let f16 = load_f16(s, panel, 0);
        for group in 0..GROUPS {
            let from = F16_BYTES + group * XS_GROUP_BYTES;
            let (indices, signs) = read_xs_codes(panel, from);
            let signs = spread_signs(&signs);
            for (pair, indices) in halves(&indices).iter().enumerate() {
                store_points(s, &IQ2_XS, &index_numbers(indices), pair, &signs, to.group(group));
            }
            store_half_scales(s, f16, array_at(panel, from + 2 * INDEX_BYTES), group, to);
        }
    }

    fn has_row_product<S: Int8Simd>() -> bool {
        true
    }
    #[inline(always)]
    fn add_row<S: Int8Simd>(s: S, panel: &[u8], x: &[ActivationGroup], mut sum: Float<S>) -> Float<S> {
        let f16 = load_f16(s, panel, 0);
        let mut codes = [([[WideIndex::default(); LANES]; EIGHTS], [[0; LANES]; EIGHTS]); GROUPS];
        for (group, codes) in codes.iter_mut().enumerate() {
            *codes = read_xs_codes(panel, F16_BYTES + group * XS_GROUP_BYTES);
        }
        put_in_memory(&codes);
        for (group, ((indices, signs), x)) in codes.iter().zip(x).enumerate() {
            let steps = array_at(panel, F16_BYTES + group * XS_GROUP_BYTES + 2 * INDEX_BYTES);
            sum = add_halves(s, &IQ2_XS_SIZES, (indices, signs), (f16, steps), x, sum);
        }
        sum
    }
}

impl BlockLayout for Iq2S {
    const COLUMNS: usize = decoded::COLUMNS;
    const FILE_BYTES: usize = 82;
    const PANEL_BYTES: usize = F16_BYTES + GROUPS * S_GROUP_BYTES;
    const ZERO_POINT: i32 = SIGN_OFFSET as i32;
    read_decoded_blocks!(2);

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        for group in 0..GROUPS {
            let to = &mut panel[F16_BYTES + group * S_GROUP_BYTES..];
            pack_bytes(&block[2 + EIGHTS * group..][..EIGHTS], lane, to);
            pack_bytes(&block[34 + EIGHTS * group..][..EIGHTS], lane, &mut to[S_SIGNS_OFFSET..]);
            to[S_HIGH_BITS_OFFSET + lane] = block[66 + group];
            to[S_SCALES_OFFSET + lane] = block[74 + group];
        }
    }

    #[inline(always)]
    fn decode<S: Int8Simd>(s: S, panel: &[u8], to: &mut DecodedBlock) {
        let f16 = load_f16(s, panel, 0);
        for group in 0..GROUPS {
            let from = F16_BYTES + group * S_GROUP_BYTES;
            let indices = read_s_indices(panel, from);
            let signs = spread_signs(rows_at(panel, from + S_SIGNS_OFFSET));
            for (pair, indices) in halves(&indices).iter().enumerate() {
                store_points(s, &IQ2_S, &index_numbers(indices), pair, &signs, to.group(group));
            }
            store_half_scales(s, f16, array_at(panel, from + S_SCALES_OFFSET), group, to);
        }
    }

    fn has_row_product<S: Int8Simd>() -> bool {
        true
    }
    #[inline(always)]
    fn add_row<S: Int8Simd>(s: S, panel: &[u8], x: &[ActivationGroup], mut sum: Float<S>) -> Float<S> {
        let f16 = load_f16(s, panel, 0);
        let mut indices = [[[WideIndex::default(); LANES]; EIGHTS]; GROUPS];
        for (group, indices) in indices.iter_mut().enumerate() {
            *indices = read_s_indices(panel, F16_BYTES + group * S_GROUP_BYTES);
        }
        put_in_memory(&indices);
        for (group, (indices, x)) in indices.iter().zip(x).enumerate() {
            let from = F16_BYTES + group * S_GROUP_BYTES;
            let (signs, steps) = (rows_at(panel, from + S_SIGNS_OFFSET), array_at(panel, from + S_SCALES_OFFSET));
            sum = add_halves(s, &IQ2_S_SIZES, (indices, signs), (f16, steps), x, sum);
        }
        sum
    }
}
