//! Q8_0 and Q4_0: 32 columns and their scale.

use super::GROUP;
use super::layout::{Float, Layout, NIBBLES, QUADS, at, halves, nibbles, place_half, place_nibbles};
use crate::simd::LANES;
use crate::simd::bytes::{BYTES, Bytes};

/// In a file: an f16 scale, 32 signed bytes. In a panel: the scales, the bytes of four columns at a time.
#[derive(Clone, Copy)]
pub(super) struct Q8_0;

/// In a file: an f16 scale, 16 bytes whose low halves are the first sixteen columns; 8 means zero.
#[derive(Clone, Copy)]
pub(super) struct Q4_0;

const SCALES: usize = 2 * LANES;

impl Layout for Q8_0 {
    const COLUMNS: usize = GROUP;
    const BYTES: usize = 2 + GROUP;
    const PANEL: usize = SCALES + GROUP * LANES;
    const SCALES: usize = 1;
    const SIGNED: bool = true;

    fn place(block: &[u8], lane: usize, panel: &mut [u8]) {
        place_half(&block[..2], lane, panel, 0);
        for (column, quant) in block[2..].iter().enumerate() {
            panel[SCALES + column / 4 * BYTES + 4 * lane + column % 4] = *quant;
        }
    }
    #[inline(always)]
    fn scales<S: Bytes>(s: S, panel: &[u8], _group: usize, _half: usize) -> Float<S> {
        halves(s, panel, 0)
    }
    #[inline(always)]
    fn quants<S: Bytes, const HALF: usize>(s: S, panel: &[u8], _group: usize, quad: usize) -> S::B {
        s.load(at(panel, SCALES + (HALF * QUADS + quad) * BYTES))
    }
}

impl Layout for Q4_0 {
    const COLUMNS: usize = GROUP;
    const BYTES: usize = 2 + GROUP / 2;
    const PANEL: usize = SCALES + NIBBLES;
    const SCALES: usize = 1;
    const OFFSET: i32 = 8;

    fn place(block: &[u8], lane: usize, panel: &mut [u8]) {
        place_half(&block[..2], lane, panel, 0);
        let quant = |column: usize| block[2 + column % 16] >> (column / 16 * 4) & 0x0F;
        place_nibbles(quant, lane, &mut panel[SCALES..]);
    }
    #[inline(always)]
    fn scales<S: Bytes>(s: S, panel: &[u8], _group: usize, _half: usize) -> Float<S> {
        halves(s, panel, 0)
    }
    #[inline(always)]
    fn quants<S: Bytes, const HALF: usize>(s: S, panel: &[u8], _group: usize, quad: usize) -> S::B {
        nibbles::<S, HALF>(s, panel, SCALES, quad)
    }
}
