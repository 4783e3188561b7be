//! What differs between formats: where a block's numbers lie, in a file and in a panel.

use super::GROUP;
use crate::simd::bytes::{BYTES, Bytes};
use crate::simd::{LANES, Simd};

/// A vector of f32 of a set.
pub(super) type Float<S> = <<S as Bytes>::Float as Simd>::V;

/// Loads of one half of a group of 32 columns: four columns each.
pub(super) const QUADS: usize = GROUP / 8;

/// One format. A panel's block is the blocks of sixteen rows at the same columns.
pub(super) trait Layout: Copy + Send + Sync + 'static {
    /// Columns of a block: a multiple of 32.
    const COLUMNS: usize;
    /// Bytes of one row's block in a file.
    const BYTES: usize;
    /// Bytes of a panel's block.
    const PANEL: usize;
    /// Scales for 32 columns: 1 or 2.
    const SCALES: usize;
    /// Quants are signed bytes, the panel has them as they are.
    const SIGNED: bool = false;
    /// What each unsigned quant is too large by.
    const OFFSET: i32 = 0;
    /// Each group of 32 columns has a minimum, which is taken from every number.
    const MINIMUMS: bool = false;

    /// Puts one row's block of a file into its lane of a panel's block.
    fn place(block: &[u8], lane: usize, panel: &mut [u8]);
    /// The scales of the half `half` of group `group`; with one scale for both halves, of the group.
    fn scales<S: Bytes>(s: S, panel: &[u8], group: usize, half: usize) -> Float<S>;
    /// The minimums of a group.
    #[inline(always)]
    fn minimums<S: Bytes>(s: S, _panel: &[u8], _group: usize) -> Float<S> {
        s.float().splat(0.0)
    }
    /// Four columns of sixteen rows: the columns `32 group + 16 HALF + 4 quad` and on.
    fn quants<S: Bytes, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B;
}

/// `N` bytes from `at` on. The length of a panel's block is known where this is inlined.
#[inline(always)]
pub(super) fn at<const N: usize>(panel: &[u8], at: usize) -> &[u8; N] {
    let (start, _) = panel[at..].as_chunks::<N>();
    &start[0]
}

/// Sixteen f16 as f32.
#[inline(always)]
pub(super) fn halves<S: Bytes>(s: S, panel: &[u8], from: usize) -> Float<S> {
    let bytes: &[u8; 2 * LANES] = at(panel, from);
    let mut bits = [0; LANES];
    for lane in 0..LANES {
        bits[lane] = u16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]);
    }
    s.float().widen_f16(&bits)
}

/// Puts two bytes of a row into its place among sixteen f16.
pub(super) fn place_half(half: &[u8], lane: usize, panel: &mut [u8], from: usize) {
    panel[from + 2 * lane..][..2].copy_from_slice(half);
}

/// Puts the quants of 32 columns, of four bits each, where [`nibbles`] finds them: the first sixteen in the low half
/// of each byte.
pub(super) fn place_nibbles(quant: impl Fn(usize) -> u8, lane: usize, panel: &mut [u8]) {
    for column in 0..GROUP / 2 {
        panel[column / 4 * BYTES + 4 * lane + column % 4] = quant(column) | quant(column + GROUP / 2) << 4;
    }
}

/// Four bits of four columns of sixteen rows, from the nibbles of a group that begin at `from`.
#[inline(always)]
pub(super) fn nibbles<S: Bytes, const HALF: usize>(s: S, panel: &[u8], from: usize, quad: usize) -> S::B {
    let both = s.load(at(panel, from + quad * BYTES));
    if HALF == 0 { s.and(both, 0x0F) } else { s.and(s.shift_right(both, 4), 0x0F) }
}

/// Bytes that the nibbles of one group of sixteen rows take.
pub(super) const NIBBLES: usize = GROUP / 2 * LANES;
