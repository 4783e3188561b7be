//! The formats IQ4_NL, IQ4_XS, MXFP4 and NVFP4: a quant of four bits is the index of a number in a table.

use super::GROUP_SIZE;
use super::layout::{
    BlockLayout, Float, NIBBLE_BYTES, array_at, load_f16, load_nibbles, nibble, store_f16, store_nibbles,
};
use crate::simd::int8::Int8Simd;
use crate::simd::{LANES, Simd};

/// Numbers of IQ4_NL and IQ4_XS. They are closer together near zero.
pub(super) const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Numbers of MXFP4 and NVFP4, E2M1, doubled so that they are whole (OCP Microscaling Formats 1.0).
pub(super) const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

const COLUMNS: usize = 256;
const GROUPS: usize = COLUMNS / GROUP_SIZE;

/// Blocks of 32 columns. In a file, a block is an f16 scale and 16 bytes whose low halves are the first sixteen columns.
#[derive(Clone, Copy)]
pub(super) struct Iq4Nl;

/// Blocks of 256 columns. In a file, a block is an f16, the high bits and the low bits of a scale of six bits for each 32
/// columns, and 128 bytes of quants. The scale 32 means zero.
#[derive(Clone, Copy)]
pub(super) struct Iq4Xs;

/// Blocks of 32 columns. In a file, a block is an exponent (E8M0) and 16 bytes of quants as in IQ4_NL.
#[derive(Clone, Copy)]
pub(super) struct Mxfp4;

/// Blocks of 64 columns. In a file, a block is a scale (E4M3 without a sign) for each sixteen columns, and for each sixteen
/// columns eight bytes whose low halves are the first eight.
#[derive(Clone, Copy)]
pub(super) struct Nvfp4;

/// Bytes of sixteen f16, which come first in a panel's block.
const F16_BYTES: usize = 2 * LANES;
const XS_SCALES_OFFSET: usize = 2 * F16_BYTES;
const XS_QUANTS_OFFSET: usize = XS_SCALES_OFFSET + GROUPS * LANES;
/// Bytes of sixteen exponents.
const EXPONENT_BYTES: usize = LANES;
const NVFP4_SCALES: usize = 4;
const NVFP4_QUANTS_OFFSET: usize = NVFP4_SCALES * LANES;

/// Returns scale `group` of a block of IQ4_XS, from 0 to 63.
fn xs_scale(block: &[u8], group: usize) -> u8 {
    let high = u16::from_le_bytes([block[2], block[3]]) >> (2 * group) & 3;
    let low = block[4 + group / 2] >> (group % 2 * 4) & 0x0F;
    low | (high as u8) << 4
}

/// Returns half of two to the power of `exponent` - 127, because the numbers of [`E2M1`] are doubled.
pub(super) fn half_power(exponent: u8) -> f32 {
    match exponent {
        // The two smallest are subnormal.
        0 | 1 => f32::from_bits(0x0020_0000 << exponent),
        exponent => f32::from_bits(u32::from(exponent - 1) << 23),
    }
}

impl BlockLayout for Iq4Nl {
    const COLUMNS: usize = GROUP_SIZE;
    const FILE_BYTES: usize = 2 + GROUP_SIZE / 2;
    const PANEL_BYTES: usize = F16_BYTES + NIBBLE_BYTES;
    const SCALES_PER_GROUP: usize = 1;
    const SIGNED: bool = true;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        store_nibbles(|column| nibble(&block[2..], column), lane, &mut panel[F16_BYTES..]);
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], _group: usize, quad: usize) -> S::B {
        s.look_up(&IQ4, load_nibbles::<S, HALF>(s, panel, F16_BYTES, quad))
    }
}

impl BlockLayout for Iq4Xs {
    const COLUMNS: usize = COLUMNS;
    const FILE_BYTES: usize = 136;
    const PANEL_BYTES: usize = XS_QUANTS_OFFSET + GROUPS * NIBBLE_BYTES;
    const SCALES_PER_GROUP: usize = 1;
    const SIGNED: bool = true;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        for group in 0..GROUPS {
            panel[XS_SCALES_OFFSET + group * LANES + lane] = xs_scale(block, group).wrapping_sub(32);
            let quants = &block[8 + group * GROUP_SIZE / 2..];
            let to = &mut panel[XS_QUANTS_OFFSET + group * NIBBLE_BYTES..];
            store_nibbles(|column| nibble(quants, column), lane, to);
        }
    }
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, panel: &[u8], group: usize, _half: usize) -> Float<S> {
        let steps = s.float().widen_i8(array_at(panel, XS_SCALES_OFFSET + group * LANES));
        s.float().mul(load_f16(s, panel, 0), steps)
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        s.look_up(&IQ4, load_nibbles::<S, HALF>(s, panel, XS_QUANTS_OFFSET + group * NIBBLE_BYTES, quad))
    }
}

impl BlockLayout for Mxfp4 {
    const COLUMNS: usize = GROUP_SIZE;
    const FILE_BYTES: usize = 1 + GROUP_SIZE / 2;
    const PANEL_BYTES: usize = EXPONENT_BYTES + NIBBLE_BYTES;
    const SCALES_PER_GROUP: usize = 1;
    const SIGNED: bool = true;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        panel[lane] = block[0];
        store_nibbles(|column| nibble(&block[1..], column), lane, &mut panel[EXPONENT_BYTES..]);
    }
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, panel: &[u8], _group: usize, _half: usize) -> Float<S> {
        let exponents: &[u8; LANES] = array_at(panel, 0);
        s.float().load(&exponents.map(half_power))
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], _group: usize, quad: usize) -> S::B {
        s.look_up(&E2M1, load_nibbles::<S, HALF>(s, panel, EXPONENT_BYTES, quad))
    }
}

impl BlockLayout for Nvfp4 {
    const COLUMNS: usize = 16 * NVFP4_SCALES;
    const FILE_BYTES: usize = NVFP4_SCALES + Self::COLUMNS / 2;
    const PANEL_BYTES: usize = NVFP4_QUANTS_OFFSET + Self::COLUMNS / GROUP_SIZE * NIBBLE_BYTES;
    const SCALES_PER_GROUP: usize = 2;
    const SIGNED: bool = true;

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        let (scales, quants) = block.split_at(NVFP4_SCALES);
        for (index, scale) in scales.iter().enumerate() {
            panel[index * LANES + lane] = *scale;
        }
        for (group, quants) in quants.chunks_exact(GROUP_SIZE / 2).enumerate() {
            let quant = |column: usize| quants[column / 16 * 8 + column % 8] >> (column % 16 / 8 * 4) & 0x0F;
            store_nibbles(quant, lane, &mut panel[NVFP4_QUANTS_OFFSET + group * NIBBLE_BYTES..]);
        }
    }
    #[inline(always)]
    fn scales<S: Int8Simd>(s: S, panel: &[u8], group: usize, half: usize) -> Float<S> {
        let scales: &[u8; LANES] = array_at(panel, (2 * group + half) * LANES);
        let mut bits = [0; LANES];
        for lane in 0..LANES {
            // What stands for no number is zero.
            bits[lane] = if scales[lane] == 0x7F { 0 } else { u16::from(scales[lane] & 0x7F) << 7 };
        }
        // The exponent of an f16 has an offset that is 8 greater. Half, because the numbers of the table are doubled.
        s.float().mul(s.float().widen_f16(&bits), s.float().splat(128.0))
    }
    #[inline(always)]
    fn unpack_quants<S: Int8Simd, const HALF: usize>(s: S, panel: &[u8], group: usize, quad: usize) -> S::B {
        s.look_up(&E2M1, load_nibbles::<S, HALF>(s, panel, NVFP4_QUANTS_OFFSET + group * NIBBLE_BYTES, quad))
    }
}
