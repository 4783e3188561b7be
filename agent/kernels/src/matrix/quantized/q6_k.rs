//! The format Q6_K: blocks of 256 columns. Each sixteen columns have a signed scale of eight bits, which is multiplied
//! by one f16. The quant 32 means zero.

use super::GROUP_SIZE;
use super::layout::{
    BlockLayout, Float, NIBBLE_BYTES, PAIR_BYTES, array_at, load_f16, load_nibbles, load_pairs, store_f16,
    store_nibbles, store_pairs,
};
use crate::simd::int8::Int8Simd;
use crate::simd::{LANES, Simd};

const COLUMNS: usize = 256;
const GROUPS: usize = COLUMNS / GROUP_SIZE;

/// Blocks of six bits. In a file, a block is 128 bytes of low nibbles, 64 bytes of high pairs of bits, 16 scales and
/// their f16.
#[derive(Clone, Copy)]
pub(super) struct Q6K;

// A panel's block holds sixteen f16 (and a gap, so that the rest starts on a cache line), then the scales by sixteen
// columns, then, by group, the nibbles and the high bits.
const SCALES_OFFSET: usize = 4 * LANES;
const QUANTS_OFFSET: usize = SCALES_OFFSET + 2 * GROUPS * LANES;
const GROUP_QUANT_BYTES: usize = NIBBLE_BYTES + PAIR_BYTES;

/// Returns the four low bits of a column. In a file, two runs of 32 columns share 32 bytes with the runs 64 columns on.
fn low_bits(block: &[u8], column: usize) -> u8 {
    let (part, within) = (column / 128, column % 128);
    block[part * 64 + within % 64] >> (within / 64 * 4) & 0x0F
}

/// Returns the two high bits of a column. A byte holds those of four columns, 32 apart.
fn high_bits(block: &[u8], column: usize) -> u8 {
    let (part, within) = (column / 128, column % 128);
    block[128 + part * 32 + within % 32] >> (within / 32 * 2) & 3
}

impl BlockLayout for Q6K {
    const COLUMNS: usize = COLUMNS;
    const FILE_BYTES: usize = 210;
    const PANEL_BYTES: usize = QUANTS_OFFSET + GROUPS * GROUP_QUANT_BYTES;
    const SCALES_PER_GROUP: usize = 2;
    const ZERO_POINT: i32 = 32;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[208..210], lane, panel, 0);
        for (index, scale) in block[192..208].iter().enumerate() {
            panel[SCALES_OFFSET + index * LANES + lane] = *scale;
        }
        for group in 0..GROUPS {
            let to = &mut panel[QUANTS_OFFSET + group * GROUP_QUANT_BYTES..];
            store_nibbles(|column| low_bits(block, group * GROUP_SIZE + column), lane, to);
            let pair = |column| high_bits(block, group * GROUP_SIZE + column);
            store_pairs(pair, lane, &mut to[NIBBLE_BYTES..]);
        }
    }
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, panel: &[u8], group: usize, half: usize) -> Float<S> {
        let steps = s.float().widen_i8(array_at(panel, SCALES_OFFSET + (2 * group + half) * LANES));
        s.float().mul(load_f16(s, panel, 0), steps)
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        let from = QUANTS_OFFSET + group * GROUP_QUANT_BYTES;
        let pair = s.shift_left(load_pairs::<S, HALF>(s, panel, from + NIBBLE_BYTES, quad), 4);
        s.or(load_nibbles::<S, HALF>(s, panel, from, quad), pair)
    }
}
