//! Memory formats of weights and cached keys: panels of sixteen rows (or positions), k-major.
//!
//! A panel is a sequence of units. A unit is one vector load. With f32 and f16, a unit is one k of sixteen rows. With
//! bf16, a unit is two k's: the even one in the low half of each 32-bit lane and the odd one in the high half, so that
//! a shift and a mask widen them. In every format k ascends, so sums are made in the same order.

use crate::buffer::Pod;
use crate::simd::{LANES, Simd};

/// A memory format.
pub(crate) trait Format: Copy + Send + Sync + 'static {
    /// Vector that one load takes.
    type Unit: Pod;
    /// Type of one stored number.
    type Element: Pod;
    /// Number of k's in a unit: 1 or 2.
    const STEP: usize;

    /// Widens a unit to one vector per k. Only the first `STEP` vectors have a meaning.
    fn widen<S: Simd>(s: S, unit: &Self::Unit) -> [S::V; 2];
    /// Widens sixteen consecutive numbers.
    fn widen_row<S: Simd>(s: S, row: &[Self::Element; LANES]) -> S::V;
    /// Encodes a number, rounded to nearest, ties to even.
    fn encode(x: f32) -> Self::Element;
    /// Decodes a number to f32, exactly.
    fn decode(x: Self::Element) -> f32;

    /// Returns the units of a panel with `depth` k's.
    fn units(depth: usize) -> usize {
        depth.div_ceil(Self::STEP)
    }

    /// Returns the index of element (k, lane) in a panel, counted in elements.
    #[inline(always)]
    fn index(k: usize, lane: usize) -> usize {
        (k / Self::STEP * LANES + lane) * Self::STEP + k % Self::STEP
    }
}

/// Single-precision format.
#[derive(Clone, Copy)]
pub(crate) struct F32;
/// Format of the upper halves of f32.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;
/// Half-precision format of IEEE 754.
#[derive(Clone, Copy)]
pub(crate) struct F16;

impl Format for F32 {
    type Unit = [f32; LANES];
    type Element = f32;
    const STEP: usize = 1;

    #[inline(always)]
    fn widen<S: Simd>(s: S, unit: &[f32; LANES]) -> [S::V; 2] {
        [s.load(unit); 2]
    }
    #[inline(always)]
    fn widen_row<S: Simd>(s: S, row: &[f32; LANES]) -> S::V {
        s.load(row)
    }
    #[inline(always)]
    fn encode(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn decode(x: f32) -> f32 {
        x
    }
}

impl Format for Bf16 {
    type Unit = [u32; LANES];
    type Element = u16;
    const STEP: usize = 2;

    #[inline(always)]
    fn widen<S: Simd>(s: S, unit: &[u32; LANES]) -> [S::V; 2] {
        s.bf16_pairs(unit)
    }
    #[inline(always)]
    fn widen_row<S: Simd>(s: S, row: &[u16; LANES]) -> S::V {
        s.widen_bf16(row)
    }
    #[inline(always)]
    fn encode(x: f32) -> u16 {
        half::bf16::from_f32(x).to_bits()
    }
    #[inline(always)]
    fn decode(x: u16) -> f32 {
        f32::from_bits(u32::from(x) << 16)
    }
}

impl Format for F16 {
    type Unit = [u16; LANES];
    type Element = u16;
    const STEP: usize = 1;

    #[inline(always)]
    fn widen<S: Simd>(s: S, unit: &[u16; LANES]) -> [S::V; 2] {
        [s.widen_f16(unit); 2]
    }
    #[inline(always)]
    fn widen_row<S: Simd>(s: S, row: &[u16; LANES]) -> S::V {
        s.widen_f16(row)
    }
    #[inline(always)]
    fn encode(x: f32) -> u16 {
        half::f16::from_f32(x).to_bits()
    }
    #[inline(always)]
    fn decode(x: u16) -> f32 {
        half::f16::from_bits(x).to_f32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The element order of bf16 is that of little-endian 32-bit lanes.
    #[test]
    fn bf16_elements_form_pairs() {
        assert_eq!(Bf16::index(0, 0), 0);
        assert_eq!(Bf16::index(1, 0), 1);
        assert_eq!(Bf16::index(0, 1), 2);
        assert_eq!(Bf16::index(3, 15), 63);
        assert_eq!(F16::index(3, 15), 63);
        assert_eq!(Bf16::units(5), 3);
    }
}
