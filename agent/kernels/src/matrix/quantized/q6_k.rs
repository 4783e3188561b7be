//! Q6_K: 256 columns; each sixteen of them have a signed scale of eight bits, times one f16; 32 means zero.

use super::GROUP;
use super::layout::{Float, Layout, NIBBLES, at, halves, nibbles, place_half, place_nibbles};
use crate::simd::bytes::{BYTES, Bytes};
use crate::simd::{LANES, Simd};

const COLUMNS: usize = 256;
const GROUPS: usize = COLUMNS / GROUP;

/// In a file: 128 bytes of low nibbles, 64 bytes of upper pairs of bits, 16 scales, their f16.
#[derive(Clone, Copy)]
pub(super) struct Q6K;

// A panel: sixteen f16 (and a gap, so that the rest begins on a cache line), the scales by sixteen columns, then by
// group the nibbles and the upper bits: of each half in 64 bytes, quad `q` in the bits `2 q` and `2 q + 1`.
const SCALES: usize = 4 * LANES;
const QUANTS: usize = SCALES + 2 * GROUPS * LANES;
const QUANTS_OF_GROUP: usize = NIBBLES + 2 * BYTES;

/// The four low bits of a column. In a file two runs of 32 columns share 32 bytes with the runs 64 columns on.
fn low_bits(block: &[u8], column: usize) -> u8 {
    let (part, within) = (column / 128, column % 128);
    block[part * 64 + within % 64] >> (within / 64 * 4) & 0x0F
}

/// The two high bits of a column: a byte holds those of four columns, 32 apart.
fn high_bits(block: &[u8], column: usize) -> u8 {
    let (part, within) = (column / 128, column % 128);
    block[128 + part * 32 + within % 32] >> (within / 32 * 2) & 3
}

impl Layout for Q6K {
    const COLUMNS: usize = COLUMNS;
    const BYTES: usize = 210;
    const PANEL: usize = QUANTS + GROUPS * QUANTS_OF_GROUP;
    const SCALES: usize = 2;
    const OFFSET: i32 = 32;

    fn place(block: &[u8], lane: usize, panel: &mut [u8]) {
        place_half(&block[208..210], lane, panel, 0);
        for (index, scale) in block[192..208].iter().enumerate() {
            panel[SCALES + index * LANES + lane] = *scale;
        }
        for group in 0..GROUPS {
            let to = &mut panel[QUANTS + group * QUANTS_OF_GROUP..];
            place_nibbles(|column| low_bits(block, group * GROUP + column), lane, to);
            for column in 0..GROUP {
                let (half, quad) = (column / 16, column % 16 / 4);
                let bits = high_bits(block, group * GROUP + column) << (2 * quad);
                to[NIBBLES + half * BYTES + 4 * lane + column % 4] |= bits;
            }
        }
    }
    #[inline(always)]
    fn scales<S: Bytes>(s: S, panel: &[u8], group: usize, half: usize) -> Float<S> {
        let steps = s.widen_i8(at(panel, SCALES + (2 * group + half) * LANES));
        s.float().mul(halves(s, panel, 0), steps)
    }
    #[inline(always)]
    fn quants<S: Bytes, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        let from = QUANTS + group * QUANTS_OF_GROUP;
        let pairs = s.load(at(panel, from + NIBBLES + HALF * BYTES));
        let pair = s.shift_left(s.and(s.shift_right(pairs, 2 * quad as i32), 3), 4);
        s.or(nibbles::<S, HALF>(s, panel, from, quad), pair)
    }
}
