//! Q4_K and Q5_K: 256 columns; each 32 of them have a scale and a minimum of six bits, times one f16 of each kind.

use super::GROUP;
use super::layout::{Float, Layout, NIBBLES, at, halves, nibbles, place_half, place_nibbles};
use crate::simd::bytes::{BYTES, Bytes};
use crate::simd::{LANES, Simd};

const COLUMNS: usize = 256;
const GROUPS: usize = COLUMNS / GROUP;

/// In a file: f16 of the scales and of the minimums, 12 bytes of both, 128 bytes whose halves are two groups each.
#[derive(Clone, Copy)]
pub(super) struct Q4K;

/// As Q4_K with 32 bytes before the last 128: bit `g` of byte `c` is the fifth of column `32 g + c`.
#[derive(Clone, Copy)]
pub(super) struct Q5K;

// A panel: sixteen f16 of each kind, the scales and minimums as bytes by group, then the quants by group.
const MINIMUM: usize = 2 * LANES;
const GROUP_SCALES: usize = 4 * LANES;
const GROUP_MINIMUMS: usize = GROUP_SCALES + GROUPS * LANES;
const QUANTS: usize = GROUP_MINIMUMS + GROUPS * LANES;
/// Fifth bits of a group: bit `q` of a byte belongs to quad `q`, both halves counted.
const FIFTHS: usize = BYTES;

fn place_scales(block: &[u8], lane: usize, panel: &mut [u8]) {
    place_half(&block[..2], lane, panel, 0);
    place_half(&block[2..4], lane, panel, MINIMUM);
    let packed = &block[4..16];
    for group in 0..GROUPS {
        // Six bits of the first four groups lie in a byte each; those of the others are cut in four and two.
        let (scale, minimum) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => {
                let low = packed[group + 4];
                (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
            }
        };
        panel[GROUP_SCALES + group * LANES + lane] = scale;
        panel[GROUP_MINIMUMS + group * LANES + lane] = minimum;
    }
}

/// Four bits of a column of a group: two groups share 32 bytes.
fn low_bits(quants: &[u8], group: usize, column: usize) -> u8 {
    quants[group / 2 * GROUP + column] >> (group % 2 * 4) & 0x0F
}

#[inline(always)]
fn scales<S: Bytes>(s: S, panel: &[u8], group: usize) -> Float<S> {
    let steps = s.widen_u8(at(panel, GROUP_SCALES + group * LANES));
    s.float().mul(halves(s, panel, 0), steps)
}

#[inline(always)]
fn minimums<S: Bytes>(s: S, panel: &[u8], group: usize) -> Float<S> {
    let steps = s.widen_u8(at(panel, GROUP_MINIMUMS + group * LANES));
    s.float().mul(halves(s, panel, MINIMUM), steps)
}

impl Layout for Q4K {
    const COLUMNS: usize = COLUMNS;
    const BYTES: usize = 144;
    const PANEL: usize = QUANTS + GROUPS * NIBBLES;
    const SCALES: usize = 1;
    const MINIMUMS: bool = true;

    fn place(block: &[u8], lane: usize, panel: &mut [u8]) {
        place_scales(block, lane, panel);
        for group in 0..GROUPS {
            let to = &mut panel[QUANTS + group * NIBBLES..];
            place_nibbles(|column| low_bits(&block[16..], group, column), lane, to);
        }
    }
    #[inline(always)]
    fn scales<S: Bytes>(s: S, panel: &[u8], group: usize, _half: usize) -> Float<S> {
        scales(s, panel, group)
    }
    #[inline(always)]
    fn minimums<S: Bytes>(s: S, panel: &[u8], group: usize) -> Float<S> {
        minimums(s, panel, group)
    }
    #[inline(always)]
    fn quants<S: Bytes, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        nibbles::<S, HALF>(s, panel, QUANTS + group * NIBBLES, quad)
    }
}

impl Layout for Q5K {
    const COLUMNS: usize = COLUMNS;
    const BYTES: usize = 176;
    const PANEL: usize = QUANTS + GROUPS * (NIBBLES + FIFTHS);
    const SCALES: usize = 1;
    const MINIMUMS: bool = true;

    fn place(block: &[u8], lane: usize, panel: &mut [u8]) {
        place_scales(block, lane, panel);
        let (fifths, quants) = block[16..].split_at(GROUP);
        for group in 0..GROUPS {
            let to = &mut panel[QUANTS + group * (NIBBLES + FIFTHS)..];
            place_nibbles(|column| low_bits(quants, group, column), lane, to);
            for (column, byte) in fifths.iter().enumerate() {
                to[NIBBLES + 4 * lane + column % 4] |= (byte >> group & 1) << (column / 4);
            }
        }
    }
    #[inline(always)]
    fn scales<S: Bytes>(s: S, panel: &[u8], group: usize, _half: usize) -> Float<S> {
        scales(s, panel, group)
    }
    #[inline(always)]
    fn minimums<S: Bytes>(s: S, panel: &[u8], group: usize) -> Float<S> {
        minimums(s, panel, group)
    }
    #[inline(always)]
    fn quants<S: Bytes, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        let from = QUANTS + group * (NIBBLES + FIFTHS);
        let fifths = s.load(at(panel, from + NIBBLES));
        let bit = (4 * HALF + quad) as i32;
        let fifth = s.shift_left(s.and(s.shift_right(fifths, bit), 1), 4);
        s.or(nibbles::<S, HALF>(s, panel, from, quad), fifth)
    }
}
