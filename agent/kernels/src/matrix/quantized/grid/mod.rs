//! The formats IQ1, IQ2 and IQ3: blocks of 256 columns. A quant is the index of a point, which is the numbers of four or
//! eight columns. The points of a format are in [`points`]. In IQ2 and IQ3, each column also has a sign.
//!
mod iq1;
mod iq2;
mod iq3;
mod points;

pub(super) use iq1::{Iq1M, Iq1S};
pub(super) use iq2::{Iq2S, Iq2Xs, Iq2Xxs};
pub(super) use iq3::{Iq3S, Iq3Xxs};

use super::decoded::{self, DecodedBlock, GROUP_VECTORS, GROUPS};
use super::layout::{BlockLayout, Float, array_at, load_f16, read_u16, store_f16};
use crate::simd::int8::{Indices, Int8Simd, VECTOR_BYTES};
use crate::simd::{LANES, Simd};

/// Columns of a point of IQ1 and IQ2.
const EIGHT: usize = 8;
/// Points of eight columns in a group.
const EIGHTS: usize = 4;
/// Number that signed quants are too large by. The product takes unsigned ones.
const SIGN_OFFSET: u8 = 64;
/// Bytes of sixteen f16, which come first in a panel's block.
const F16_BYTES: usize = 2 * LANES;
/// Bytes of the signs of one vector.
const SIGN_BYTES: usize = VECTOR_BYTES / 8;
/// Signs of a group: first those of the four first columns of each eight, then those of the others. Each vector's are in the
/// order of [`Int8Simd::reflect`].
type GroupSigns = [[[u8; SIGN_BYTES]; EIGHTS]; 2];

/// Stores sizes with their signs. The sizes are [`SIGN_OFFSET`] too large, and the stored numbers, too.
#[inline(always)]
fn store_signed<S: Int8Simd>(s: S, sizes: S::B, signs: &[u8; SIGN_BYTES], to: &mut [u8; VECTOR_BYTES]) {
    s.store(s.reflect(2 * SIGN_OFFSET, sizes, signs), to);
}

/// Writes the signs of a group of one row: bit `c % 8` of byte `c / 8` is set if column `c` is negative.
fn pack_signs(signs: &[u8], lane: usize, panel: &mut [u8]) {
    for column in 0..EIGHT * EIGHTS {
        let bit = signs[column / 8] >> (column % 8) & 1;
        let vector = column % 8 / 4 * EIGHTS + column / 8;
        panel[vector * SIGN_BYTES + lane / 2] |= bit << (lane % 2 * 4 + column % 4);
    }
}

/// Reads the signs of a group that [`pack_signs`] wrote.
#[inline(always)]
fn read_signs(panel: &[u8], from: usize) -> GroupSigns {
    let mut signs = [[[0; SIGN_BYTES]; EIGHTS]; 2];
    for (vector, signs) in signs.as_flattened_mut().iter_mut().enumerate() {
        *signs = *array_at(panel, from + vector * SIGN_BYTES);
    }
    signs
}

/// Returns the signs of a group from seven bits for each eight columns of sixteen rows. The number of negative columns is
/// even, which gives the eighth sign.
#[inline(always)]
fn expand_signs(codes: &[[u8; LANES]; EIGHTS]) -> GroupSigns {
    let mut bits = *codes;
    for bits in bits.as_flattened_mut() {
        let code = *bits & 0x7F;
        let parity = code ^ code >> 4;
        let parity = parity ^ parity >> 2;
        *bits = code | (parity ^ parity >> 1) << 7;
    }
    let mut signs = [[[0; SIGN_BYTES]; EIGHTS]; 2];
    let [first, second] = &mut signs;
    let pairs = bits.as_flattened().as_chunks::<2>().0;
    for (pair, (first, second)) in pairs.iter().zip(first.as_flattened_mut().iter_mut().zip(second.as_flattened_mut()))
    {
        // The bits of two rows. A vector has four columns of each.
        let rows = u16::from_le_bytes(*pair);
        *first = (rows & 0x0F | rows >> 4 & 0xF0) as u8;
        *second = (rows >> 4 & 0x0F | rows >> 8 & 0xF0) as u8;
    }
    signs
}

/// Writes bytes of one row into its lane, sixteen rows of each byte side by side.
fn pack_bytes(bytes: &[u8], lane: usize, panel: &mut [u8]) {
    for (index, byte) in bytes.iter().enumerate() {
        panel[index * LANES + lane] = *byte;
    }
}

/// Reads indices of eight bits: two of sixteen rows.
#[inline(always)]
fn read_indices(panel: &[u8], from: usize) -> Indices {
    let low: &[u8; 2 * LANES] = array_at(panel, from);
    let mut indices = [0; 2 * LANES];
    for i in 0..2 * LANES {
        indices[i] = u16::from(low[i]);
    }
    indices
}

/// Words of IQ2_XXS and IQ3_XXS: the signs of four times eight columns, seven bits each, and a scale of four bits.
struct SignsAndScales {
    signs: GroupSigns,
    scales: [u8; LANES],
}

#[inline(always)]
fn read_signs_and_scales(panel: &[u8], from: usize) -> SignsAndScales {
    let bytes: &[u8; 4 * LANES] = array_at(panel, from);
    let mut words = [0; LANES];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let (mut codes, mut scales) = ([[0; LANES]; EIGHTS], [0; LANES]);
    for (eight, codes) in codes.iter_mut().enumerate() {
        for lane in 0..LANES {
            codes[lane] = (words[lane] >> (7 * eight)) as u8;
        }
    }
    for lane in 0..LANES {
        scales[lane] = (words[lane] >> 28) as u8;
    }
    SignsAndScales { signs: expand_signs(&codes), scales }
}

/// Computes `factor · (2 step + 1)` times the f16 of sixteen rows.
#[inline(always)]
fn odd_scales<S: Int8Simd>(s: S, f16: Float<S>, steps: &[u8; LANES], factor: f32) -> Float<S> {
    let mut odd = [0; LANES];
    for lane in 0..LANES {
        odd[lane] = 2 * (steps[lane] & 0x0F) + 1;
    }
    let f = s.float();
    f.mul(f.mul(f16, s.widen_u8(&odd)), f.splat(factor))
}

/// Shifts sixteen bytes right.
#[inline(always)]
fn shift_bytes(bytes: &[u8; LANES], bits: usize) -> [u8; LANES] {
    let mut shifted = [0; LANES];
    for lane in 0..LANES {
        shifted[lane] = bytes[lane] >> bits;
    }
    shifted
}
