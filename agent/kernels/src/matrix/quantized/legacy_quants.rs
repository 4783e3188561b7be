//! The formats Q8_0 and Q4_0: blocks of 32 columns with one scale.

use super::GROUP_SIZE;
use super::layout::{
    BlockLayout, Float, NIBBLE_BYTES, QUADS, array_at, load_f16, load_nibbles, store_f16, store_nibbles,
};
use crate::simd::LANES;
use crate::simd::int8::{Int8Simd, VECTOR_BYTES};

/// Blocks of eight bits. In a file, a block is an f16 scale and 32 signed bytes. In a panel, the scales come first,
/// then the bytes of four columns at a time.
#[derive(Clone, Copy)]
pub(super) struct Q8_0;

/// Blocks of four bits. In a file, a block is an f16 scale and 16 bytes whose low halves are the first sixteen columns.
/// The quant 8 means zero.
#[derive(Clone, Copy)]
pub(super) struct Q4_0;

/// Bytes of the scales, which come first in a panel's block.
const SCALE_BYTES: usize = 2 * LANES;

impl BlockLayout for Q8_0 {
    const COLUMNS: usize = GROUP_SIZE;
    const FILE_BYTES: usize = 2 + GROUP_SIZE;
    const PANEL_BYTES: usize = SCALE_BYTES + GROUP_SIZE * LANES;
    const SCALES_PER_GROUP: usize = 1;
    const SIGNED: bool = true;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        for (column, quant) in block[2..].iter().enumerate() {
            panel[SCALE_BYTES + column / 4 * VECTOR_BYTES + 4 * lane + column % 4] = *quant;
        }
    }
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, panel: &[u8], _group: usize, _half: usize) -> Float<S> {
        load_f16(s, panel, 0)
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], _group: usize, quad: usize) -> S::B {
        s.load(array_at(panel, SCALE_BYTES + (HALF * QUADS + quad) * VECTOR_BYTES))
    }
}

impl BlockLayout for Q4_0 {
    const COLUMNS: usize = GROUP_SIZE;
    const FILE_BYTES: usize = 2 + GROUP_SIZE / 2;
    const PANEL_BYTES: usize = SCALE_BYTES + NIBBLE_BYTES;
    const SCALES_PER_GROUP: usize = 1;
    const ZERO_POINT: i32 = 8;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        let quant = |column: usize| block[2 + column % 16] >> (column / 16 * 4) & 0x0F;
        store_nibbles(quant, lane, &mut panel[SCALE_BYTES..]);
    }
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, panel: &[u8], _group: usize, _half: usize) -> Float<S> {
        load_f16(s, panel, 0)
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], _group: usize, quad: usize) -> S::B {
        load_nibbles::<S, HALF>(s, panel, SCALE_BYTES, quad)
    }
}
