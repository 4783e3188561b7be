//! The formats IQ2_XXS, IQ2_XS and IQ2_S. A point is the sizes of eight numbers.

use super::super::decoded::read_decoded_blocks;
use super::points::{IQ2_S, IQ2_XS, IQ2_XXS};
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
const S_HIGH_BITS_OFFSET: usize = S_SIGNS_OFFSET + GROUP_VECTORS * SIGN_BYTES;
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
            to[INDEX_BYTES + 4 * lane..][..4].copy_from_slice(&from[4..]);
        }
    }

    #[inline(always)]
    fn decode<S: Int8Simd>(s: S, panel: &[u8], to: &mut DecodedBlock) {
        let f16 = load_f16(s, panel, 0);
        for group in 0..GROUPS {
            let from = F16_BYTES + group * XXS_GROUP_BYTES;
            let words = read_signs_and_scales(panel, from + INDEX_BYTES);
            for pair in 0..2 {
                let indices = read_indices(panel, from + 2 * pair * LANES);
                store_points(s, &IQ2_XXS, &indices, pair, &words.signs, to.group(group));
            }
            to.store_scales(s.float(), group, odd_scales(s, f16, &words.scales, FACTOR));
        }
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
            let (mut indices, mut codes) = ([[0; LANES]; EIGHTS], [[0; LANES]; EIGHTS]);
            for eight in 0..EIGHTS {
                let words = read_u16(panel, from + 2 * eight * LANES);
                for lane in 0..LANES {
                    indices[eight][lane] = words[lane] & 511;
                    codes[eight][lane] = (words[lane] >> 9) as u8;
                }
            }
            let signs = expand_signs(&codes);
            for (pair, indices) in indices.as_flattened().as_chunks().0.iter().enumerate() {
                store_points(s, &IQ2_XS, indices, pair, &signs, to.group(group));
            }
            store_half_scales(s, f16, array_at(panel, from + 2 * INDEX_BYTES), group, to);
        }
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
            pack_signs(&block[34 + EIGHTS * group..], lane, &mut to[S_SIGNS_OFFSET..]);
            to[S_HIGH_BITS_OFFSET + lane] = block[66 + group];
            to[S_SCALES_OFFSET + lane] = block[74 + group];
        }
    }

    #[inline(always)]
    fn decode<S: Int8Simd>(s: S, panel: &[u8], to: &mut DecodedBlock) {
        let f16 = load_f16(s, panel, 0);
        for group in 0..GROUPS {
            let from = F16_BYTES + group * S_GROUP_BYTES;
            let (high, mut indices) = (array_at(panel, from + S_HIGH_BITS_OFFSET), [[0; LANES]; EIGHTS]);
            for (eight, indices) in indices.iter_mut().enumerate() {
                let (low, high): (&[u8; LANES], _) =
                    (array_at(panel, from + eight * LANES), shift_bytes(high, 2 * eight));
                for lane in 0..LANES {
                    indices[lane] = u16::from(low[lane]) | u16::from(high[lane] & 3) << 8;
                }
            }
            let signs = read_signs(panel, from + S_SIGNS_OFFSET);
            for (pair, indices) in indices.as_flattened().as_chunks().0.iter().enumerate() {
                store_points(s, &IQ2_S, indices, pair, &signs, to.group(group));
            }
            store_half_scales(s, f16, array_at(panel, from + S_SCALES_OFFSET), group, to);
        }
    }
}
