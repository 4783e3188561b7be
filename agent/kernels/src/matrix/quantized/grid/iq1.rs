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

/// The numbers of IQ1_S for 32 columns of sixteen rows.
#[derive(Clone, Copy, Default)]
struct SGroup {
    indices: [[WideIndex<2048>; LANES]; EIGHTS],
    /// The lowest bit is set if the eighth is subtracted.
    negative: [u16; LANES],
    steps: [u8; LANES],
}

#[inline(always)]
fn read_s_group(panel: &[u8], from: usize) -> SGroup {
    let (low, mut words): (&[[u8; LANES]; EIGHTS], _) = (rows_at(panel, from), read_u16(panel, from + INDEX_BYTES));
    let mut group = SGroup::default();
    for (word, (negative, steps)) in words.iter().zip(group.negative.iter_mut().zip(&mut group.steps)) {
        (*negative, *steps) = (word >> 15, (word >> 12 & 7) as u8);
    }
    for (low, indices) in low.iter().zip(&mut group.indices) {
        for lane in 0..LANES {
            indices[lane] = WideIndex::new(u16::from(low[lane]) | words[lane] << 8);
        }
        words = shift_words(&words, 3);
    }
    group
}

/// The numbers of IQ1_M for 16 columns of sixteen rows.
#[derive(Clone, Copy, Default)]
struct MHalf {
    indices: [[WideIndex<2048>; LANES]; 2],
    /// The lowest bit is set if the eighth is subtracted.
    negative: [[u16; LANES]; 2],
}

#[inline(always)]
fn read_m_half(panel: &[u8], from: usize, half: usize) -> MHalf {
    let low: &[[u8; LANES]; 2] = rows_at(panel, from + 2 * half * LANES);
    let high: &[u8; LANES] = array_at(panel, from + INDEX_BYTES + half * LANES);
    let mut found = MHalf::default();
    for lane in 0..LANES {
        found.indices[0][lane] = WideIndex::new(u16::from(low[0][lane]) | u16::from(high[lane]) << 8);
        found.negative[0][lane] = u16::from(high[lane] >> 3 & 1);
    }
    for lane in 0..LANES {
        found.indices[1][lane] = WideIndex::new(u16::from(low[1][lane]) | u16::from(high[lane] >> 4) << 8);
        found.negative[1][lane] = u16::from(high[lane] >> 7);
    }
    found
}

/// Reads the f16 of a block of IQ1_M.
#[inline(always)]
fn read_m_f16<S: Int8Simd>(s: S, panel: &[u8]) -> Float<S> {
    let mut bits = [0; LANES];
    for word in 0..M_SCALE_WORDS {
        let words = read_u16(panel, 2 * word * LANES);
        for lane in 0..LANES {
            bits[lane] |= words[lane] >> 12 << (4 * word);
        }
    }
    s.float().widen_f16(&bits)
}

/// Reads the steps of the scales of half a group of IQ1_M.
#[inline(always)]
fn read_m_steps(panel: &[u8], group: usize, half: usize) -> [u8; LANES] {
    let words = read_u16(panel, group / 2 * 2 * LANES);
    let mut steps = [0; LANES];
    for lane in 0..LANES {
        steps[lane] = (words[lane] >> (3 * (group % 2 * 2 + half)) & 7) as u8;
    }
    steps
}

impl BlockLayout for Iq1S {
    const COLUMNS: usize = decoded::COLUMNS;
    const FILE_BYTES: usize = 50;
    const PANEL_BYTES: usize = F16_BYTES + GROUPS * GROUP_BYTES;
    const ZERO_POINT: i32 = OFFSET;
    const MAX_QUANT: u8 = 18;
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
            let numbers = read_s_group(panel, from);
            let eighths = load_eighths(s, &numbers.negative);
            for (pair, indices) in halves(&numbers.indices).iter().enumerate() {
                store_points(s, &index_numbers(indices), pair, [eighths; 2], to.group(group));
            }
            to.store_scales(s.float(), group, odd_scales(s, f16, &numbers.steps, FACTOR));
        }
    }

    fn has_row_product<S: Int8Simd>() -> bool {
        true
    }
    #[inline(always)]
    fn add_row<S: Int8Simd>(s: S, panel: &[u8], x: &[ActivationGroup], mut sum: Float<S>) -> Float<S> {
        let f16 = load_f16(s, panel, 0);
        let mut groups = [SGroup::default(); GROUPS];
        for (group, numbers) in groups.iter_mut().enumerate() {
            *numbers = read_s_group(panel, F16_BYTES + group * GROUP_BYTES);
        }
        put_in_memory(&groups);
        for (numbers, x) in groups.iter().zip(x) {
            let mut sums = s.no_sums();
            for (indices, x) in halves(&numbers.indices).iter().zip(x.eights()) {
                sums = s.add_eights(sums, &IQ1.points, indices, None, x);
            }
            let (whole, mut more) = (x.sums[0] + x.sums[1], [0; LANES]);
            for (more, negative) in more.iter_mut().zip(&numbers.negative) {
                *more = (2 - OFFSET) * whole - 2 * whole * i32::from(*negative);
            }
            let scales = odd_scales(s, f16, &numbers.steps, FACTOR);
            sum = add_scaled_row(s, scales, x, s.finish_sums(sums, &more), sum);
        }
        sum
    }
}

impl BlockLayout for Iq1M {
    const COLUMNS: usize = decoded::COLUMNS;
    const FILE_BYTES: usize = 56;
    const PANEL_BYTES: usize = M_GROUPS_OFFSET + GROUPS * GROUP_BYTES;
    const ZERO_POINT: i32 = OFFSET;
    const MAX_QUANT: u8 = 18;
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
        let f16 = read_m_f16(s, panel);
        for group in 0..GROUPS {
            let from = M_GROUPS_OFFSET + group * GROUP_BYTES;
            for half in 0..2 {
                let numbers = read_m_half(panel, from, half);
                let eighths = [load_eighths(s, &numbers.negative[0]), load_eighths(s, &numbers.negative[1])];
                store_points(s, &index_numbers(&numbers.indices), half, eighths, to.group(group));
                let scales = odd_scales(s, f16, &read_m_steps(panel, group, half), FACTOR);
                to.store_scales(s.float(), 2 * group + half, scales);
            }
        }
    }

    fn has_row_product<S: Int8Simd>() -> bool {
        true
    }
    #[inline(always)]
    fn add_row<S: Int8Simd>(s: S, panel: &[u8], x: &[ActivationGroup], mut sum: Float<S>) -> Float<S> {
        let (f, f16) = (s.float(), read_m_f16(s, panel));
        let mut groups = [[MHalf::default(); 2]; GROUPS];
        for (group, halves) in groups.iter_mut().enumerate() {
            for (half, numbers) in halves.iter_mut().enumerate() {
                *numbers = read_m_half(panel, M_GROUPS_OFFSET + group * GROUP_BYTES, half);
            }
        }
        put_in_memory(&groups);
        for (group, (numbers, x)) in groups.iter().zip(x).enumerate() {
            let mut both = f.splat(0.0);
            for (half, (MHalf { indices, negative }, eights)) in numbers.iter().zip(x.eights()).enumerate() {
                let sums = s.add_eights(s.no_sums(), &IQ1.points, indices, None, eights);
                let (first, mut more) = (x.first_sums[half], [0; LANES]);
                for lane in 0..LANES {
                    let subtracted =
                        first * i32::from(negative[0][lane]) + (x.sums[half] - first) * i32::from(negative[1][lane]);
                    more[lane] = (2 - OFFSET) * x.sums[half] - 2 * subtracted;
                }
                let scales = odd_scales(s, f16, &read_m_steps(panel, group, half), FACTOR);
                both = f.fma(scales, s.widen(s.finish_sums(sums, &more)), both);
            }
            sum = f.fma(both, f.splat(x.scale), sum);
        }
        sum
    }
}
