//! How weights and cached keys lie in memory: panels of sixteen rows (or positions), k-major.
//!
//! A panel is a sequence of units, each one vector load. With f32 and f16 a unit is one k of sixteen
//! rows; with bf16 it is two k's, the even one in the low half of each 32-bit lane and the odd one in
//! the high half, so that a shift and a mask widen them. In every format k ascends, so sums are made
//! in the same order.

use crate::buffer::Plain;
use crate::simd::{LANES, Simd};

/// One memory format.
pub(crate) trait Format: Copy + Send + Sync + 'static {
    /// What one load takes.
    type Unit: Plain;
    /// One number.
    type Element: Plain;
    /// How many k's a unit holds: 1 or 2.
    const STEP: usize;

    /// The unit's vectors, one per k; only the first `STEP` are meant.
    fn widen<S: Simd>(s: S, unit: &Self::Unit) -> [S::V; 2];
    /// Sixteen consecutive numbers.
    fn widen_row<S: Simd>(s: S, row: &[Self::Element; LANES]) -> S::V;
    /// To nearest, ties to even.
    fn encode(x: f32) -> Self::Element;
    /// One number as f32, exactly.
    fn decode(x: Self::Element) -> f32;

    /// Units of a panel with `depth` k's.
    fn units(depth: usize) -> usize {
        depth.div_ceil(Self::STEP)
    }

    /// Where element (k, lane) of a panel is, in elements.
    #[inline(always)]
    fn index(k: usize, lane: usize) -> usize {
        (k / Self::STEP * LANES + lane) * Self::STEP + k % Self::STEP
    }
}

#[derive(Clone, Copy)]
pub(crate) struct F32;
#[derive(Clone, Copy)]
pub(crate) struct Bf16;
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

    /// Bf16's element order is that of little-endian 32-bit lanes.
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
