//! The formats IQ1_S and IQ1_M. A point is eight numbers that are -1, 0 or 1. An eighth is added to all of them, or
//! subtracted. Quants are eight times a number, so that they are whole.

use super::super::decoded::read_decoded_blocks;
use super::points::IQ1;
use super::*;

/// Blocks of about one and a half bits. In a file, a block is an f16, for each eight columns the low eight bits of an
/// index, and for each 32 columns two bytes: three high bits of the four indices, three bits of a scale, and the sign of the
/// eighth.
#[derive(Clone, Copy)]
pub(in crate::matrix::quantized) struct Iq1S;

/// In a file, a block is, for each eight columns, the low eight bits of an index, then for each eight columns three high bits
/// and the sign of the eighth, and then four times two bytes: three bits of a scale for each sixteen columns, and four bits of
/// an f16.
#[derive(Clone, Copy)]
pub(in crate::matrix::quantized) struct Iq1M;

/// Number that quants are too large by: eight, so that no quant is negative, and one, because the eighth is added as 0 or 2.
const OFFSET: i32 = 9;
/// Factor of all scales, because quants are eight times a number.
const FACTOR: f32 = 0.125;

// A panel's block of IQ1_S holds sixteen f16, that of IQ1_M the scales and f16 of a file's block. Then come, by group, the
// indices by eight columns and the other bits.
const INDEX_BYTES: usize = EIGHTS * LANES;
const GROUP_BYTES: usize = INDEX_BYTES + 2 * LANES;
const M_SCALE_WORDS: usize = 4;
const M_GROUPS_OFFSET: usize = M_SCALE_WORDS * 2 * LANES;

/// Returns four bytes for each row: twos if the row's eighth is added, zeros if its lowest bit in `negative` is set.
#[inline(always)]
fn load_eighths<S: Int8Simd>(s: S, negative: &[u16; LANES]) -> S::B {
    let mut bytes = [0; VECTOR_BYTES];
    for (bytes, negative) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(negative) {
        *bytes = (0x0202_0202 & u32::from(*negative & 1).wrapping_sub(1)).to_le_bytes();
    }
    s.load(&bytes)
}

/// Looks up the points `2 pair` and `2 pair + 1` of sixteen rows, and stores their numbers with the eighths of each point.
#[inline(always)]
fn store_points<S: Int8Simd>(
    s: S,
    indices: &Indices,
    pair: usize,
    eighths: [S::B; 2],
    vectors: &mut [[u8; VECTOR_BYTES]],
) {
    for (half, points) in s.look_up_eights(&IQ1, indices).into_iter().enumerate() {
        for (part, points) in points.into_iter().enumerate() {
            s.store(s.or(points, eighths[half]), &mut vectors[2 * (2 * pair + half) + part]);
        }
    }
}

impl BlockLayout for Iq1S {
    const COLUMNS: usize = decoded::COLUMNS;
    const FILE_BYTES: usize = 50;
    const PANEL_BYTES: usize = F16_BYTES + GROUPS * GROUP_BYTES;
    const ZERO_POINT: i32 = OFFSET;
    read_decoded_blocks!(1);

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        store_f16(&block[..2], lane, panel, 0);
        for group in 0..GROUPS {
            let to = &mut panel[F16_BYTES + group * GROUP_BYTES..];
            pack_bytes(&block[2 + EIGHTS * group..][..EIGHTS], lane, to);
            to[INDEX_BYTES + 2 * lane..][..2].copy_from_slice(&block[34 + 2 * group..][..2]);
        }
    }

    #[inline(always)]
    fn decode<S: Int8Simd>(s: S, panel: &[u8], to: &mut DecodedBlock) {
        let f16 = load_f16(s, panel, 0);
        for group in 0..GROUPS {
            let from = F16_BYTES + group * GROUP_BYTES;
            let words = read_u16(panel, from + INDEX_BYTES);
            let (mut negative, mut steps) = ([0; LANES], [0; LANES]);
            for lane in 0..LANES {
                negative[lane] = words[lane] >> 15;
                steps[lane] = (words[lane] >> 12 & 7) as u8;
            }
            let eighths = load_eighths(s, &negative);
            for pair in 0..2 {
                let low: &[u8; 2 * LANES] = array_at(panel, from + 2 * pair * LANES);
                let mut indices = [0; 2 * LANES];
                for half in 0..2 {
                    for lane in 0..LANES {
                        let high = words[lane] >> (3 * (2 * pair + half)) & 7;
                        indices[half * LANES + lane] = u16::from(low[half * LANES + lane]) | high << 8;
                    }
                }
                store_points(s, &indices, pair, [eighths; 2], to.group(group));
            }
            to.store_scales(s.float(), group, odd_scales(s, f16, &steps, FACTOR));
        }
    }
}

impl BlockLayout for Iq1M {
    const COLUMNS: usize = decoded::COLUMNS;
    const FILE_BYTES: usize = 56;
    const PANEL_BYTES: usize = M_GROUPS_OFFSET + GROUPS * GROUP_BYTES;
    const ZERO_POINT: i32 = OFFSET;
    read_decoded_blocks!(2);

    fn pack_block(block: &[u8], lane: usize, panel: &mut [u8]) {
        for (word, bytes) in block[48..].as_chunks::<2>().0.iter().enumerate() {
            panel[2 * (word * LANES + lane)..][..2].copy_from_slice(bytes);
        }
        for group in 0..GROUPS {
            let to = &mut panel[M_GROUPS_OFFSET + group * GROUP_BYTES..];
            pack_bytes(&block[EIGHTS * group..][..EIGHTS], lane, to);
            pack_bytes(&block[32 + 2 * group..][..2], lane, &mut to[INDEX_BYTES..]);
        }
    }

    #[inline(always)]
    fn decode<S: Int8Simd>(s: S, panel: &[u8], to: &mut DecodedBlock) {
        let mut bits = [0; LANES];
        for word in 0..M_SCALE_WORDS {
            let words = read_u16(panel, 2 * word * LANES);
            for lane in 0..LANES {
                bits[lane] |= words[lane] >> 12 << (4 * word);
            }
        }
        let f16 = s.float().widen_f16(&bits);
        for group in 0..GROUPS {
            let from = M_GROUPS_OFFSET + group * GROUP_BYTES;
            for pair in 0..2 {
                let low: &[u8; 2 * LANES] = array_at(panel, from + 2 * pair * LANES);
                let high: &[u8; LANES] = array_at(panel, from + INDEX_BYTES + pair * LANES);
                let (mut indices, mut negative) = ([0; 2 * LANES], [[0; LANES]; 2]);
                for half in 0..2 {
                    for lane in 0..LANES {
                        let bits = u16::from(high[lane] >> (4 * half));
                        indices[half * LANES + lane] = u16::from(low[half * LANES + lane]) | (bits & 7) << 8;
                        negative[half][lane] = bits >> 3;
                    }
                }
                let eighths = [load_eighths(s, &negative[0]), load_eighths(s, &negative[1])];
                store_points(s, &indices, pair, eighths, to.group(group));
            }
            let words = read_u16(panel, group / 2 * 2 * LANES);
            for half in 0..2 {
                let mut steps = [0; LANES];
                for lane in 0..LANES {
                    steps[lane] = (words[lane] >> (3 * (group % 2 * 2 + half)) & 7) as u8;
                }
                to.store_scales(s.float(), 2 * group + half, odd_scales(s, f16, &steps, FACTOR));
            }
        }
    }
}
