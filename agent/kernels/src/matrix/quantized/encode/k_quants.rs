//! Encoders of Q2_K, Q3_K, Q4_K, Q5_K and Q6_K.

use super::fit::{Whole, evenly};
use super::super_block::{COLUMNS, Scaled, Shifted, encode_scaled, encode_shifted};
use super::{BlockEncoder, f16_bytes};
use crate::matrix::quantized::GROUP_SIZE;
use crate::matrix::quantized::q2_k::{Q2K, Q3K};
use crate::matrix::quantized::q4_k::{Q4K, Q5K};
use crate::matrix::quantized::q6_k::Q6K;

/// Runs of sixteen numbers in a block.
const SIXTEENS: usize = COLUMNS / 16;
/// Runs of 32 numbers in a block.
const GROUPS: usize = COLUMNS / GROUP_SIZE;

/// Packs the pairs of bits of a block. A byte holds the pairs of four columns, which are 32 columns apart. `bits` returns
/// the pair of a column.
pub(super) fn pack_pairs(bits: impl Fn(usize) -> u8) -> [u8; COLUMNS / 4] {
    let mut packed = [0; COLUMNS / 4];
    for column in 0..COLUMNS {
        let (part, within) = (column / 128, column % 128);
        packed[part * 32 + within % 32] |= (bits(column) & 3) << (within / 32 * 2);
    }
    packed
}

/// Returns one bit of each column: bit `g` of byte `c` is that of column `32 g + c`.
fn pack_bits(bit: impl Fn(usize) -> u8) -> [u8; GROUP_SIZE] {
    let mut packed = [0; GROUP_SIZE];
    for column in 0..COLUMNS {
        packed[column % GROUP_SIZE] |= (bit(column) & 1) << (column / GROUP_SIZE);
    }
    packed
}

impl BlockEncoder for Q2K {
    #[inline(always)]
    fn encode(x: &[f32], block: &mut [u8]) {
        const REACHES: [f32; 16] = evenly(2.5 / 3.0, 4.0 / 3.0);
        let Shifted { units, steps, quants } = encode_shifted::<Whole<0, 3>, 16, SIXTEENS>(x, &REACHES, 15.0, 0.0);
        for (to, [scale, minimum]) in block.iter_mut().zip(steps) {
            *to = scale | minimum << 4;
        }
        block[16..80].copy_from_slice(&pack_pairs(|column| quants[column]));
        block[80..].copy_from_slice(&f16_bytes(units));
    }
}

impl BlockEncoder for Q3K {
    #[inline(always)]
    fn encode(x: &[f32], block: &mut [u8]) {
        const REACHES: [f32; 19] = evenly(3.1 / 4.0, 4.9 / 4.0);
        let Scaled { unit, steps, quants } = encode_scaled::<Whole<-4, 3>, 16, SIXTEENS>(x, &REACHES, [-32.0, 31.0]);
        block[..32].copy_from_slice(&pack_bits(|column| quants[column] >> 2));
        block[32..96].copy_from_slice(&pack_pairs(|column| quants[column]));
        // The four low bits of the scales are in eight bytes, the two high bits in four.
        block[96..108].fill(0);
        for (index, step) in steps.into_iter().enumerate() {
            let step = (step + 32).cast_unsigned();
            block[96 + index % 8] |= (step & 0x0F) << (index / 8 * 4);
            block[104 + index % 4] |= step >> 4 << (index / 4 * 2);
        }
        block[108..].copy_from_slice(&unit.to_le_bytes());
    }
}

/// Returns the scales and minimums of Q4_K and Q5_K, six bits each. Those of the first four groups are in one byte each. Those
/// of the others are split into four bits and two.
fn pack_steps(steps: &[[u8; 2]; GROUPS]) -> [u8; 12] {
    let mut packed = [0; 12];
    for (group, [scale, minimum]) in steps.iter().enumerate() {
        if group < 4 {
            packed[group] |= scale;
            packed[group + 4] |= minimum;
        } else {
            packed[group + 4] = scale & 0x0F | (minimum & 0x0F) << 4;
            packed[group - 4] |= scale >> 4 << 6;
            packed[group] |= minimum >> 4 << 6;
        }
    }
    packed
}

/// Returns the four low bits of each quant of Q4_K and Q5_K. Two groups share 32 bytes.
fn pack_nibbles(quants: &[u8; COLUMNS]) -> [u8; COLUMNS / 2] {
    let mut packed = [0; COLUMNS / 2];
    for (index, quant) in quants.iter().enumerate() {
        let (group, column) = (index / GROUP_SIZE, index % GROUP_SIZE);
        packed[group / 2 * GROUP_SIZE + column] |= (quant & 0x0F) << (group % 2 * 4);
    }
    packed
}

impl BlockEncoder for Q4K {
    #[inline(always)]
    fn encode(x: &[f32], block: &mut [u8]) {
        const REACHES: [f32; 21] = evenly(14.0 / 15.0, 16.0 / 15.0);
        let Shifted { units, steps, quants } = encode_shifted::<Whole<0, 15>, 32, GROUPS>(x, &REACHES, 63.0, 0.5);
        block[..4].copy_from_slice(&f16_bytes(units));
        block[4..16].copy_from_slice(&pack_steps(&steps));
        block[16..].copy_from_slice(&pack_nibbles(&quants));
    }
}

impl BlockEncoder for Q5K {
    #[inline(always)]
    fn encode(x: &[f32], block: &mut [u8]) {
        const REACHES: [f32; 16] = evenly(30.5 / 31.0, 32.0 / 31.0);
        let Shifted { units, steps, quants } = encode_shifted::<Whole<0, 31>, 32, GROUPS>(x, &REACHES, 63.0, 0.5);
        block[..4].copy_from_slice(&f16_bytes(units));
        block[4..16].copy_from_slice(&pack_steps(&steps));
        block[16..48].copy_from_slice(&pack_bits(|column| quants[column] >> 4));
        block[48..].copy_from_slice(&pack_nibbles(&quants));
    }
}

impl BlockEncoder for Q6K {
    #[inline(always)]
    fn encode(x: &[f32], block: &mut [u8]) {
        const REACHES: [f32; 19] = evenly(31.1 / 32.0, 32.9 / 32.0);
        let Scaled { unit, steps, quants } =
            encode_scaled::<Whole<-32, 31>, 16, SIXTEENS>(x, &REACHES, [-128.0, 127.0]);
        // Two runs of 32 columns share 32 bytes with the runs 64 columns on.
        block[..128].fill(0);
        for (column, quant) in quants.iter().enumerate() {
            let (part, within) = (column / 128, column % 128);
            block[part * 64 + within % 64] |= (quant & 0x0F) << (within / 64 * 4);
        }
        block[128..192].copy_from_slice(&pack_pairs(|column| quants[column] >> 4));
        for (to, step) in block[192..208].iter_mut().zip(steps) {
            *to = step.cast_unsigned();
        }
        block[208..].copy_from_slice(&unit.to_le_bytes());
    }
}
