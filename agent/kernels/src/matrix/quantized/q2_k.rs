//! The formats Q2_K and Q3_K: blocks of 256 columns. Each sixteen columns have a scale, which is multiplied by one f16.

use super::GROUP_SIZE;
use super::layout::{
    BlockLayout, Float, PAIR_BYTES, SINGLE_BIT_BYTES, array_at, load_f16, load_pairs, load_single_bits, store_f16,
    store_pairs, store_single_bits,
};
use crate::simd::int8::Int8Simd;
use crate::simd::{LANES, Simd};

const COLUMNS: usize = 256;
const GROUPS: usize = COLUMNS / GROUP_SIZE;

/// Blocks of two bits. In a file, a block is 16 bytes with a scale in the low half and a minimum in the high half, 64
/// bytes of quants, an f16 for the scales and one for the minimums.
#[derive(Clone, Copy)]
pub(super) struct Q2K;

/// Blocks of three bits. In a file, a block is 32 bytes of high bits, 64 bytes of pairs of low bits, 12 bytes with 16
/// scales of six bits, and their f16. The scale 32 and the quant 4 mean zero.
#[derive(Clone, Copy)]
pub(super) struct Q3K;

// A panel's block of either format holds sixteen f16 of each kind, then a byte for each sixteen columns, then the quants
// by group.
const MINIMUMS_OFFSET: usize = 2 * LANES;
const Q2K_SCALES_OFFSET: usize = 4 * LANES;
const Q2K_QUANTS_OFFSET: usize = Q2K_SCALES_OFFSET + 2 * GROUPS * LANES;
const Q3K_SCALES_OFFSET: usize = 2 * LANES;
const Q3K_QUANTS_OFFSET: usize = Q3K_SCALES_OFFSET + 2 * GROUPS * LANES;
const Q3K_GROUP_BYTES: usize = PAIR_BYTES + SINGLE_BIT_BYTES;

/// Returns the two low bits of a column. A byte holds those of four columns, 32 apart.
pub(super) fn low_bits(quants: &[u8], column: usize) -> u8 {
    let (part, within) = (column / 128, column % 128);
    quants[part * 32 + within % 32] >> (within / 32 * 2) & 3
}

/// Returns scale `index` of a block of Q3_K, from 0 to 63. The four low bits are in the first eight bytes, the two high
/// bits in the last four.
fn q3k_scale(packed: &[u8], index: usize) -> u8 {
    let low = packed[index % 8] >> (index / 8 * 4) & 0x0F;
    let high = packed[8 + index % 4] >> (index / 4 * 2) & 3;
    low | high << 4
}

#[inline(always)]
fn half_bytes(panel: &[u8], offset: usize, group: usize, half: usize) -> &[u8; LANES] {
    array_at(panel, offset + (2 * group + half) * LANES)
}

impl BlockLayout for Q2K {
    const COLUMNS: usize = COLUMNS;
    const FILE_BYTES: usize = 84;
    const PANEL_BYTES: usize = Q2K_QUANTS_OFFSET + GROUPS * PAIR_BYTES;
    const MAX_QUANT: u8 = 3;
    const SCALES_PER_GROUP: usize = 2;
    const HAS_MINIMUMS: bool = true;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[80..82], lane, panel, 0);
        store_f16(&block[82..84], lane, panel, MINIMUMS_OFFSET);
        for (index, scale) in block[..16].iter().enumerate() {
            panel[Q2K_SCALES_OFFSET + index * LANES + lane] = *scale;
        }
        for group in 0..GROUPS {
            let pair = |column| low_bits(&block[16..80], group * GROUP_SIZE + column);
            store_pairs(pair, lane, &mut panel[Q2K_QUANTS_OFFSET + group * PAIR_BYTES..]);
        }
    }
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, panel: &[u8], group: usize, half: usize) -> Float<S> {
        let steps = half_bytes(panel, Q2K_SCALES_OFFSET, group, half).map(|byte| byte & 0x0F);
        s.float().mul(load_f16(s, panel, 0), s.widen_u8(&steps))
    }
    #[inline(always)]
    fn minimums<S: Int8Simd>(s: S, panel: &[u8], group: usize, half: usize) -> Float<S> {
        let steps = half_bytes(panel, Q2K_SCALES_OFFSET, group, half).map(|byte| byte >> 4);
        s.float().mul(load_f16(s, panel, MINIMUMS_OFFSET), s.widen_u8(&steps))
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        load_pairs::<S, HALF>(s, panel, Q2K_QUANTS_OFFSET + group * PAIR_BYTES, quad)
    }
}

impl BlockLayout for Q3K {
    const COLUMNS: usize = COLUMNS;
    const FILE_BYTES: usize = 110;
    const PANEL_BYTES: usize = Q3K_QUANTS_OFFSET + GROUPS * Q3K_GROUP_BYTES;
    const MAX_QUANT: u8 = 7;
    const SCALES_PER_GROUP: usize = 2;
    const ZERO_POINT: i32 = 4;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        let (high_bits, rest) = block.split_at(GROUP_SIZE);
        let (quants, rest) = rest.split_at(64);
        store_f16(&rest[12..14], lane, panel, 0);
        for index in 0..2 * GROUPS {
            let scale = q3k_scale(&rest[..12], index).wrapping_sub(32);
            panel[Q3K_SCALES_OFFSET + index * LANES + lane] = scale;
        }
        for group in 0..GROUPS {
            let to = &mut panel[Q3K_QUANTS_OFFSET + group * Q3K_GROUP_BYTES..];
            store_pairs(|column| low_bits(quants, group * GROUP_SIZE + column), lane, to);
            store_single_bits(|column| high_bits[column] >> group, lane, &mut to[PAIR_BYTES..]);
        }
    }
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, panel: &[u8], group: usize, half: usize) -> Float<S> {
        let steps = s.float().widen_i8(half_bytes(panel, Q3K_SCALES_OFFSET, group, half));
        s.float().mul(load_f16(s, panel, 0), steps)
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        let from = Q3K_QUANTS_OFFSET + group * Q3K_GROUP_BYTES;
        let high = load_single_bits::<S, HALF>(s, panel, from + PAIR_BYTES, quad, 2);
        s.or(load_pairs::<S, HALF>(s, panel, from, quad), high)
    }
}
