//! The formats Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1: blocks of 32 columns with one scale.

use super::GROUP_SIZE;
use super::layout::{
    BlockLayout, Float, NIBBLE_BYTES, QUADS, SINGLE_BIT_BYTES, array_at, load_f16, load_nibbles, load_single_bits,
    nibble, store_f16, store_nibbles, store_single_bits,
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

/// Blocks of four bits with a minimum. In a file, a block is that of Q4_0 with an f16 after the scale, which is added to
/// every number.
#[derive(Clone, Copy)]
pub(super) struct Q4_1;

/// Blocks of five bits. In a file, a block is that of Q4_0 with four bytes after the scale: bit `c` of them is the fifth
/// bit of column `c`. The quant 16 means zero.
#[derive(Clone, Copy)]
pub(super) struct Q5_0;

/// Blocks of five bits with a minimum. In a file, a block is that of Q5_0 with an f16 after the scale, which is added to
/// every number.
#[derive(Clone, Copy)]
pub(super) struct Q5_1;

/// Bytes of the scales, which come first in a panel's block. Minimums come second and take as many.
const SCALE_BYTES: usize = 2 * LANES;

/// Writes the number that a file adds as the minimum that a product subtracts: its sign changes.
fn store_minimum(added: &[u8], lane: usize, panel: &mut [u8]) {
    store_f16(&[added[0], added[1] ^ 0x80], lane, panel, SCALE_BYTES);
}

/// Writes the nibbles and the fifth bits of a block.
fn store_five_bits(fifth_bits: &[u8], quants: &[u8], lane: usize, panel: &mut [u8]) {
    store_nibbles(|column| nibble(quants, column), lane, panel);
    store_single_bits(|column| fifth_bits[column / 8] >> (column % 8), lane, &mut panel[NIBBLE_BYTES..]);
}

#[inline(always)]
fn load_five_bits<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], from: usize, quad: usize) -> S::B {
    let fifth = load_single_bits::<S, HALF>(s, panel, from + NIBBLE_BYTES, quad, 4);
    s.or(load_nibbles::<S, HALF>(s, panel, from, quad), fifth)
}

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
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], _group: usize, quad: usize) -> S::B {
        s.load(array_at(panel, SCALE_BYTES + (HALF * QUADS + quad) * VECTOR_BYTES))
    }
}

impl BlockLayout for Q4_0 {
    const COLUMNS: usize = GROUP_SIZE;
    const FILE_BYTES: usize = 2 + GROUP_SIZE / 2;
    const PANEL_BYTES: usize = SCALE_BYTES + NIBBLE_BYTES;
    const MAX_QUANT: u8 = 15;
    const SCALES_PER_GROUP: usize = 1;
    const ZERO_POINT: i32 = 8;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        store_nibbles(|column| nibble(&block[2..], column), lane, &mut panel[SCALE_BYTES..]);
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], _group: usize, quad: usize) -> S::B {
        load_nibbles::<S, HALF>(s, panel, SCALE_BYTES, quad)
    }
}

impl BlockLayout for Q4_1 {
    const COLUMNS: usize = GROUP_SIZE;
    const FILE_BYTES: usize = 4 + GROUP_SIZE / 2;
    const PANEL_BYTES: usize = 2 * SCALE_BYTES + NIBBLE_BYTES;
    const MAX_QUANT: u8 = 15;
    const SCALES_PER_GROUP: usize = 1;
    const HAS_MINIMUMS: bool = true;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        store_minimum(&block[2..4], lane, panel);
        store_nibbles(|column| nibble(&block[4..], column), lane, &mut panel[2 * SCALE_BYTES..]);
    }
    #[inline(always)]
    fn minimums<S: Int8Simd>(s: S, panel: &[u8], _group: usize, _half: usize) -> Float<S> {
        load_f16(s, panel, SCALE_BYTES)
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], _group: usize, quad: usize) -> S::B {
        load_nibbles::<S, HALF>(s, panel, 2 * SCALE_BYTES, quad)
    }
}

impl BlockLayout for Q5_0 {
    const COLUMNS: usize = GROUP_SIZE;
    const FILE_BYTES: usize = 6 + GROUP_SIZE / 2;
    const PANEL_BYTES: usize = SCALE_BYTES + NIBBLE_BYTES + SINGLE_BIT_BYTES;
    const MAX_QUANT: u8 = 31;
    const SCALES_PER_GROUP: usize = 1;
    const ZERO_POINT: i32 = 16;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        store_five_bits(&block[2..6], &block[6..], lane, &mut panel[SCALE_BYTES..]);
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], _group: usize, quad: usize) -> S::B {
        load_five_bits::<S, HALF>(s, panel, SCALE_BYTES, quad)
    }
}

impl BlockLayout for Q5_1 {
    const COLUMNS: usize = GROUP_SIZE;
    const FILE_BYTES: usize = 8 + GROUP_SIZE / 2;
    const PANEL_BYTES: usize = 2 * SCALE_BYTES + NIBBLE_BYTES + SINGLE_BIT_BYTES;
    const MAX_QUANT: u8 = 31;
    const SCALES_PER_GROUP: usize = 1;
    const HAS_MINIMUMS: bool = true;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        store_minimum(&block[2..4], lane, panel);
        store_five_bits(&block[4..8], &block[8..], lane, &mut panel[2 * SCALE_BYTES..]);
    }
    #[inline(always)]
    fn minimums<S: Int8Simd>(s: S, panel: &[u8], _group: usize, _half: usize) -> Float<S> {
        load_f16(s, panel, SCALE_BYTES)
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], _group: usize, quad: usize) -> S::B {
        load_five_bits::<S, HALF>(s, panel, 2 * SCALE_BYTES, quad)
    }
}
