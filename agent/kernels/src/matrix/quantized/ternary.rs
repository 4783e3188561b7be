//! The formats Q1_0, Q2_0, TQ1_0 and TQ2_0: blocks with one scale, whose numbers are -1, 0, 1 or 2 times the scale.

use super::activations::ActivationGroup;
use super::decoded::{self, COLUMNS, DecodedBlock, GROUPS};
use super::gemm::{add_scaled_row, multiply_group};
use super::layout::{
    BlockLayout, Float, PAIR_BYTES, QUADS, SINGLE_BIT_BYTES, array_at, load_f16, load_pairs, load_single_bits,
    store_f16, store_pairs, store_single_bits,
};
use super::{GROUP_SIZE, q2_k};
use crate::simd::LANES;
use crate::simd::int8::{Int8Simd, VECTOR_BYTES};

/// Blocks of one bit, which means -1 or 1. In a file, a block is an f16 and 16 bytes with the bits of 128 columns.
#[derive(Clone, Copy)]
pub(super) struct Q1_0;

/// Blocks of two bits. In a file, a block is an f16 and 16 bytes with the quants of 64 columns, four in a byte.
#[derive(Clone, Copy)]
pub(super) struct Q2_0;

/// Blocks of 256 columns, five numbers a byte. In a file, a block is 32 bytes with the numbers of 160 columns, 16 bytes with those of
/// 80 columns, four bytes with four numbers each, and an f16. A byte is a fraction of 256 whose digits to base three are the
/// numbers. The first digits of a run of bytes are the first columns.
#[derive(Clone, Copy)]
pub(super) struct Tq1_0;

/// Blocks of 256 columns, two bits each. In a file, a block is 64 bytes of quants and an f16.
#[derive(Clone, Copy)]
pub(super) struct Tq2_0;

/// The quant 1 means zero.
const ZERO_POINT: i32 = 1;

/// Bytes of the scales, which come first in a panel's block. The bytes of a file's block follow in fours.
const SCALE_BYTES: usize = 2 * LANES;
const TQ1_VECTORS: usize = 13;
/// Digits of a byte.
const DIGITS: usize = 5;

impl BlockLayout for Q1_0 {
    const COLUMNS: usize = 128;
    const FILE_BYTES: usize = 2 + Self::COLUMNS / 8;
    const PANEL_BYTES: usize = SCALE_BYTES + Self::COLUMNS / GROUP_SIZE * SINGLE_BIT_BYTES;
    const MAX_QUANT: u8 = 2;
    const SCALES_PER_GROUP: usize = 1;
    const ZERO_POINT: i32 = ZERO_POINT;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        for (group, bits) in block[2..].chunks_exact(GROUP_SIZE / 8).enumerate() {
            let to = &mut panel[SCALE_BYTES + group * SINGLE_BIT_BYTES..];
            store_single_bits(|column| bits[column / 8] >> (column % 8), lane, to);
        }
    }
    /// The quant is 0 or 2.
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        load_single_bits::<S, HALF>(s, panel, SCALE_BYTES + group * SINGLE_BIT_BYTES, quad, 1)
    }
}

impl BlockLayout for Q2_0 {
    const COLUMNS: usize = 64;
    const FILE_BYTES: usize = 2 + Self::COLUMNS / 4;
    const PANEL_BYTES: usize = SCALE_BYTES + Self::COLUMNS / GROUP_SIZE * PAIR_BYTES;
    const MAX_QUANT: u8 = 3;
    const SCALES_PER_GROUP: usize = 1;
    const ZERO_POINT: i32 = ZERO_POINT;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        for (group, quants) in block[2..].chunks_exact(GROUP_SIZE / 4).enumerate() {
            let to = &mut panel[SCALE_BYTES + group * PAIR_BYTES..];
            store_pairs(|column| quants[column / 4] >> (column % 4 * 2), lane, to);
        }
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        load_pairs::<S, HALF>(s, panel, SCALE_BYTES + group * PAIR_BYTES, quad)
    }
}

impl BlockLayout for Tq1_0 {
    const COLUMNS: usize = COLUMNS;
    const FILE_BYTES: usize = 54;
    const PANEL_BYTES: usize = SCALE_BYTES + TQ1_VECTORS * VECTOR_BYTES;
    const MAX_QUANT: u8 = 2;
    const SCALES_PER_GROUP: usize = 1;
    const ZERO_POINT: i32 = ZERO_POINT;
    const IS_DECODED: bool = true;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[52..], lane, panel, 0);
        for (vector, bytes) in block[..52].as_chunks::<4>().0.iter().enumerate() {
            let less = bytes.map(|byte| byte ^ 0x80);
            panel[SCALE_BYTES + vector * VECTOR_BYTES + 4 * lane..][..4].copy_from_slice(&less);
        }
    }
    #[inline(always)]
    fn decode<S: Int8Simd>(s: S, panel: &[u8], to: &mut DecodedBlock) {
        for vector in 0..TQ1_VECTORS {
            let mut bytes = s.load(array_at(panel, SCALE_BYTES + vector * VECTOR_BYTES));
            for digit in 0..DIGITS {
                // Vectors of four columns that come before.
                let before = match vector {
                    0..8 => 8 * digit + vector,
                    8..12 => 40 + 4 * digit + (vector - 8),
                    _ => 60 + digit,
                };
                if before < GROUPS * 2 * QUADS {
                    let [digits, rest] = s.take_digits(bytes);
                    s.store(digits, &mut to.group(before / (2 * QUADS))[before % (2 * QUADS)]);
                    bytes = rest;
                }
            }
        }
        to.store_scales(s.float(), 0, load_f16(s, panel, 0));
    }

    fn has_row_product<S: Int8Simd>() -> bool {
        true
    }
    #[inline(always)]
    fn add_row<S: Int8Simd>(s: S, panel: &[u8], x: &[ActivationGroup], mut sum: Float<S>) -> Float<S> {
        let mut shorts = [s.no_shorts(); GROUPS];
        // The digits of eight vectors are five groups.
        for vector in 0..2 * QUADS {
            let mut bytes = s.load(array_at(panel, SCALE_BYTES + vector * VECTOR_BYTES));
            for group in 0..DIGITS {
                let [digits, rest] = s.take_digits(bytes);
                shorts[group] = s.dot_short(shorts[group], digits, x[group].quads[vector]);
                bytes = rest;
            }
        }
        // Those of four vectors are two and a half, and those of the last are the rest.
        for quad in 0..QUADS {
            let mut bytes = s.load(array_at(panel, SCALE_BYTES + (2 * QUADS + quad) * VECTOR_BYTES));
            for digit in 0..DIGITS {
                let (group, half) = (DIGITS + digit / 2, digit % 2);
                let [digits, rest] = s.take_digits(bytes);
                shorts[group] = s.dot_short(shorts[group], digits, x[group].quads[half * QUADS + quad]);
                bytes = rest;
            }
        }
        let mut bytes = s.load(array_at(panel, SCALE_BYTES + 3 * QUADS * VECTOR_BYTES));
        for quad in 0..QUADS {
            let [digits, rest] = s.take_digits(bytes);
            shorts[GROUPS - 1] = s.dot_short(shorts[GROUPS - 1], digits, x[GROUPS - 1].quads[QUADS + quad]);
            bytes = rest;
        }
        let scales = load_f16(s, panel, 0);
        for (shorts, x) in shorts.into_iter().zip(x) {
            let dots = s.add_shorts(s.splat(-ZERO_POINT * (x.sums[0] + x.sums[1])), shorts);
            sum = add_scaled_row(s, scales, x, dots, sum);
        }
        sum
    }
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, block: &[u8], _group: usize, _half: usize) -> Float<S> {
        decoded::load_scales(s, block, 0)
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, block: &[u8], group: usize, quad: usize) -> S::B {
        decoded::load_quants::<S, HALF>(s, block, group, quad)
    }
}

impl BlockLayout for Tq2_0 {
    const COLUMNS: usize = COLUMNS;
    const FILE_BYTES: usize = 66;
    const PANEL_BYTES: usize = SCALE_BYTES + GROUPS * PAIR_BYTES;
    const MAX_QUANT: u8 = 3;
    const SCALES_PER_GROUP: usize = 1;
    const ZERO_POINT: i32 = ZERO_POINT;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[64..], lane, panel, 0);
        for group in 0..GROUPS {
            let pair = |column| q2_k::low_bits(block, group * GROUP_SIZE + column);
            store_pairs(pair, lane, &mut panel[SCALE_BYTES + group * PAIR_BYTES..]);
        }
    }
    fn has_row_product<S: Int8Simd>() -> bool {
        true
    }
    #[inline(always)]
    fn add_row<S: Int8Simd>(s: S, panel: &[u8], x: &[ActivationGroup], mut sum: Float<S>) -> Float<S> {
        let scales = load_f16(s, panel, 0);
        for (group, x) in x.iter().enumerate() {
            sum = add_scaled_row(s, scales, x, multiply_group::<S, Self>(s, panel, group, x), sum);
        }
        sum
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        load_pairs::<S, HALF>(s, panel, SCALE_BYTES + group * PAIR_BYTES, quad)
    }
}
