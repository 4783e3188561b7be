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

use super::activations::ActivationGroup;
use super::decoded::{self, DecodedBlock, GROUP_VECTORS, GROUPS};
use super::gemm::add_scaled_row;
use super::layout::{BlockLayout, Float, array_at, load_f16, read_u16, store_f16};
use crate::simd::int8::{Indices, Int8Simd, VECTOR_BYTES, WideIndex};
use crate::simd::{LANES, Simd};

/// Points of eight columns in a group.
const EIGHTS: usize = 4;
/// Number that signed quants are too large by. The product takes unsigned ones.
const SIGN_OFFSET: u8 = 64;
/// Bytes of sixteen f16, which come first in a panel's block.
const F16_BYTES: usize = 2 * LANES;
/// Bytes of the signs of one vector.
const SIGN_BYTES: usize = VECTOR_BYTES / 8;
/// Signs of a group, a byte for each eight columns of sixteen rows. The first column's is the lowest bit.
type RowSigns = [[u8; LANES]; EIGHTS];
/// Signs of a group: first those of the four first columns of each eight, then those of the others. Each vector's are in the
/// order of [`Int8Simd::reflect`].
type GroupSigns = [[[u8; SIGN_BYTES]; EIGHTS]; 2];

/// Stores sizes with their signs. The sizes are [`SIGN_OFFSET`] too large, and the stored numbers, too.
#[inline(always)]
fn store_signed<S: Int8Simd>(s: S, sizes: S::B, signs: &[u8; SIGN_BYTES], to: &mut [u8; VECTOR_BYTES]) {
    s.store(s.reflect(2 * SIGN_OFFSET, sizes, signs), to);
}

/// Returns the signs of eight columns from the seven low bits. The number of negative columns is even, which gives the eighth
/// sign.
#[inline(always)]
fn complete_signs(codes: &RowSigns) -> RowSigns {
    let mut signs = *codes;
    for bits in signs.as_flattened_mut() {
        let code = *bits & 0x7F;
        let parity = code ^ code >> 4;
        let parity = parity ^ parity >> 2;
        *bits = code | (parity ^ parity >> 1) << 7;
    }
    signs
}

/// Returns the signs in the order of vectors.
#[inline(always)]
fn spread_signs(bits: &RowSigns) -> GroupSigns {
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

/// Returns `N` times sixteen bytes from `from`.
#[inline(always)]
fn rows_at<const N: usize>(panel: &[u8], from: usize) -> &[[u8; LANES]; N] {
    &panel[from..].as_chunks().0.as_chunks().0[0]
}

/// Widens indices of eight bits.
#[inline(always)]
fn widen_indices(low: &[[u8; LANES]; 2]) -> Indices {
    let mut indices = [0; 2 * LANES];
    for (index, low) in indices.iter_mut().zip(low.as_flattened()) {
        *index = u16::from(*low);
    }
    indices
}

/// Puts the numbers of a block in memory, from which each index is read by itself. The compiler would keep indices in vectors,
/// out of which it takes two instructions to get one. A whole block is put there at once, so that no read waits for a write.
#[inline(always)]
fn put_in_memory<T>(numbers: &T) {
    std::hint::black_box(numbers);
}

/// Returns the numbers of indices, by two.
#[inline(always)]
fn index_numbers<const N: usize>(indices: &[[WideIndex<N>; LANES]; 2]) -> Indices {
    let mut numbers = [0; 2 * LANES];
    for (number, index) in numbers.iter_mut().zip(indices.as_flattened()) {
        *number = index.number();
    }
    numbers
}

/// Writes a word of IQ2_XXS or IQ3_XXS into its lane: the signs of four times eight columns, seven bits each, and a scale of
/// four bits. A byte gets seven signs and one bit of the scale.
fn pack_word(bytes: [u8; 4], lane: usize, panel: &mut [u8]) {
    let word = u32::from_le_bytes(bytes);
    for eight in 0..EIGHTS {
        let (signs, scale) = (word >> (7 * eight) & 0x7F, word >> (28 + eight) & 1);
        panel[eight * LANES + lane] = (signs | scale << 7) as u8;
    }
}

/// Reads the words that [`pack_word`] wrote: the signs, and the scales.
#[inline(always)]
fn read_words(panel: &[u8], from: usize) -> (RowSigns, [u8; LANES]) {
    let (codes, mut scales) = (rows_at(panel, from), [0; LANES]);
    for (eight, codes) in codes.iter().enumerate() {
        for lane in 0..LANES {
            scales[lane] |= codes[lane] >> 7 << eight;
        }
    }
    (complete_signs(codes), scales)
}

/// Halves the indices or signs of a group.
#[inline(always)]
fn halves<T, const N: usize>(eights: &[T; N]) -> &[[T; 2]] {
    eights.as_chunks().0
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

/// Shifts sixteen words right.
#[inline(always)]
fn shift_words(words: &[u16; LANES], bits: usize) -> [u16; LANES] {
    let mut shifted = [0; LANES];
    for lane in 0..LANES {
        shifted[lane] = words[lane] >> bits;
    }
    shifted
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
