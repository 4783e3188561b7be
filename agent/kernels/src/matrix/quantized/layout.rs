//! Differences between the formats: the places of a block's numbers in a file and in a panel.

use super::GROUP_SIZE;
use super::activations::ActivationGroup;
use super::decoded::DecodedBlock;
use crate::simd::int8::{Int8Simd, VECTOR_BYTES};
use crate::simd::{LANES, Simd};

/// Vector of f32 of an instruction set.
pub(super) type Float<S> = <<S as Int8Simd>::Float as Simd>::V;

/// Quads in one half of a group of 32 columns. A load brings one quad, which is four columns.
pub(super) const QUADS: usize = GROUP_SIZE / 8;

/// Layout of one format. A panel's block is the blocks of sixteen rows at the same columns.
///
/// The product reads a panel's block by the last three functions. A format that takes many steps to read has a decoder
/// instead: the product decodes a block once for many rows of activations, and these functions read the decoded block.
pub(super) trait BlockLayout: Copy + Send + Sync + 'static {
    /// Columns of a block: a multiple of 32.
    const COLUMNS: usize;
    /// Bytes of one row's block in a file.
    const FILE_BYTES: usize;
    /// Bytes of a panel's block.
    const PANEL_BYTES: usize;
    /// Scales per group of 32 columns: 1 or 2.
    const SCALES_PER_GROUP: usize;
    /// True if quants are signed bytes, which a panel keeps as they are.
    const SIGNED: bool = false;
    /// Greatest quant if quants are unsigned.
    const MAX_QUANT: u8 = 127;
    /// Number that is subtracted from each unsigned quant.
    const ZERO_POINT: i32 = 0;
    /// True if the columns of one scale also have a minimum, which is subtracted from every number.
    const HAS_MINIMUMS: bool = false;
    /// True if the product decodes blocks.
    const IS_DECODED: bool = false;

    /// True if one row of activations is multiplied by a packed block, which is not decoded for it.
    fn has_row_product<S: Int8Simd>() -> bool {
        false
    }

    /// Writes one row's block of a file into its lane of a panel's block.
    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]);
    /// Decodes a panel's block.
    #[inline(always)]
    fn decode<S: Int8Simd>(_s: S, _panel: &[u8], _to: &mut DecodedBlock) {}
    /// Adds to `sum` the product of a panel's block with the same columns of one row of activations.
    #[inline(always)]
    fn add_row<S: Int8Simd>(_s: S, _panel: &[u8], _x: &[ActivationGroup], sum: Float<S>) -> Float<S> {
        sum
    }
    /// Returns the scales of half `half` of group `group`. A format with one scale per group gives it for both halves. By
    /// default, a block has one scale in f16, and a panel's block begins with those of sixteen rows.
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, panel: &[u8], _group: usize, _half: usize) -> Float<S> {
        load_f16(s, panel, 0)
    }
    /// Returns the minimums of half `half` of group `group`, as [`BlockLayout::scales`] returns the scales.
    #[inline(always)]
    fn minimums<S: Int8Simd>(s: S, _panel: &[u8], _group: usize, _half: usize) -> Float<S> {
        s.float().splat(0.0)
    }
    /// Unpacks four columns of sixteen rows: columns `32 group + 16 HALF + 4 quad` to `… + 3`.
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B;
}

/// Returns `N` bytes from `start`. The compiler knows the length of a panel's block where this is inlined.
#[inline(always)]
pub(super) fn array_at<const N: usize>(panel: &[u8], start: usize) -> &[u8; N] {
    let (arrays, _) = panel[start..].as_chunks::<N>();
    &arrays[0]
}

/// Loads sixteen f16 as f32.
#[inline(always)]
pub(super) fn load_f16<S: Int8Simd>(s: S, panel: &[u8], from: usize) -> Float<S> {
    s.float().widen_f16(&read_u16(panel, from))
}

/// Reads sixteen numbers of two bytes.
#[inline(always)]
pub(super) fn read_u16(panel: &[u8], from: usize) -> [u16; LANES] {
    let bytes: &[u8; 2 * LANES] = array_at(panel, from);
    let mut numbers = [0; LANES];
    for lane in 0..LANES {
        numbers[lane] = u16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]);
    }
    numbers
}

/// Writes the f16 of one row, as two bytes, into its lane of sixteen f16.
pub(super) fn store_f16(half: &[u8], lane: usize, panel: &mut [u8], from: usize) {
    panel[from + 2 * lane..][..2].copy_from_slice(half);
}

/// Returns the four-bit quant of a column of a group as most files store it: the low halves of sixteen bytes are the first
/// sixteen columns.
pub(super) fn nibble(quants: &[u8], column: usize) -> u8 {
    quants[column % 16] >> (column / 16 * 4) & 0x0F
}

/// Writes the four-bit quants of 32 columns into the order that [`load_nibbles`] reads: the first sixteen go into the
/// low half of each byte.
pub(super) fn store_nibbles(quant: impl Fn(usize) -> u8, lane: usize, panel: &mut [u8]) {
    for column in 0..GROUP_SIZE / 2 {
        panel[column / 4 * VECTOR_BYTES + 4 * lane + column % 4] = quant(column) | quant(column + GROUP_SIZE / 2) << 4;
    }
}

/// Loads four columns of sixteen rows, four bits each, from the nibbles of a group that start at `from`.
#[inline(always)]
pub(super) fn load_nibbles<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], from: usize, quad: usize) -> S::B {
    let both = s.load(array_at(panel, from + quad * VECTOR_BYTES));
    if HALF == 0 { s.and(both, 0x0F) } else { s.and(s.shift_right(both, 4), 0x0F) }
}

/// Writes the fifth bits of 32 columns: bit `q` of a byte belongs to quad `q`, counted over both halves.
pub(super) fn store_single_bits(bit: impl Fn(usize) -> u8, lane: usize, panel: &mut [u8]) {
    for column in 0..GROUP_SIZE {
        panel[4 * lane + column % 4] |= (bit(column) & 1) << (column / 4);
    }
}

/// Loads one bit of four columns of sixteen rows, as bit `to` of each byte, from the single bits of a group that start at
/// `from`.
#[inline(always)]
pub(super) fn load_single_bits<S: Int8Simd, const HALF: usize>(
    s: S,
    panel: &[u8],
    from: usize,
    quad: usize,
    to: i32,
) -> S::B {
    let bits = s.load(array_at(panel, from));
    s.shift_left(s.and(s.shift_right(bits, (QUADS * HALF + quad) as i32), 1), to)
}

/// Writes two bits of each of 32 columns. Each half takes a vector, with quad `q` in the bits `2 q` and `2 q + 1`.
pub(super) fn store_pairs(pair: impl Fn(usize) -> u8, lane: usize, panel: &mut [u8]) {
    for column in 0..GROUP_SIZE {
        let (half, quad) = (column / 16, column % 16 / 4);
        panel[half * VECTOR_BYTES + 4 * lane + column % 4] |= (pair(column) & 3) << (2 * quad);
    }
}

/// Loads two bits of four columns of sixteen rows from the pairs of a group that start at `from`.
#[inline(always)]
pub(super) fn load_pairs<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], from: usize, quad: usize) -> S::B {
    let pairs = s.load(array_at(panel, from + HALF * VECTOR_BYTES));
    s.and(s.shift_right(pairs, 2 * quad as i32), 3)
}

/// Bytes that the single bits of one group of sixteen rows take.
pub(super) const SINGLE_BIT_BYTES: usize = VECTOR_BYTES;
/// Bytes that the pairs of bits of one group of sixteen rows take.
pub(super) const PAIR_BYTES: usize = 2 * VECTOR_BYTES;
/// Bytes that the nibbles of one group of sixteen rows take.
pub(super) const NIBBLE_BYTES: usize = GROUP_SIZE / 2 * LANES;
