//! Integer products of bytes with AVX2: products are added in pairs to 16 bits, then in fours to 32 bits.

use std::arch::x86_64::*;

use super::{Avx2, F32x16};
use crate::simd::LANES;
use crate::simd::int8::{EightPoints, FourPoints, Indices, Int8Kernel, Int8Simd, PointIndex, VECTOR_BYTES};
use crate::simd::int8::{FIRST_DIGIT, SECOND_DIGIT};

/// Runs `kernel` compiled for AVX2.
///
/// # Safety
/// The machine must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::simd) unsafe fn run(kernel: impl Int8Kernel) {
    kernel.run(Avx2(()));
}

/// Wraps an intrinsic and states once why the call is sound.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: a value of `Avx2` exists, so the machine has the instruction. Memory operands are references to as
        // many bytes as the instruction reads, without alignment.
        unsafe { $call }
    };
}

/// 64 bytes or sixteen i32 in two registers: lanes 0–7 and 8–15.
#[derive(Clone, Copy)]
pub(crate) struct IntHalves(__m256i, __m256i);

/// Applies one instruction to both halves.
macro_rules! both {
    ($x:ident => $half:ident, $call:expr) => {
        intrinsic!({
            let $half = $x.0;
            let first = $call;
            let $half = $x.1;
            IntHalves(first, $call)
        })
    };
}

/// Returns bytes of ones for the bits that are set.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn expand_bits(bits: i32) -> __m256i {
    intrinsic!({
        // Each byte gets the byte of `bits` that has its bit, and then the bit alone.
        let bytes = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let single = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let bits = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), bytes), single);
        _mm256_cmpeq_epi8(bits, single)
    })
}

/// Looks up points of eight bytes for eight lanes: the first four bytes of each, and the others.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn look_up_eights<const N: usize>(points: &[u64; N], indices: &[u16; 8]) -> [__m256i; 2] {
    let mut pairs = [intrinsic!(_mm_setzero_si128()); 4];
    for i in 0..4 {
        let first = points[usize::from(indices[2 * i]) % N].cast_signed();
        pairs[i] = intrinsic!(_mm_set_epi64x(points[usize::from(indices[2 * i + 1]) % N].cast_signed(), first));
    }
    intrinsic!({
        let even = _mm256_castsi256_ps(_mm256_set_m128i(pairs[2], pairs[0]));
        let odd = _mm256_castsi256_ps(_mm256_set_m128i(pairs[3], pairs[1]));
        let first = _mm256_shuffle_ps::<0x88>(even, odd);
        [_mm256_castps_si256(first), _mm256_castps_si256(_mm256_shuffle_ps::<0xDD>(even, odd))]
    })
}

/// Looks up points of four bytes for eight lanes.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn look_up_fours<const N: usize>(points: &[u32; N], indices: &[u16; 8]) -> __m256i {
    let mut found = [0; 8];
    for i in 0..8 {
        found[i] = points[usize::from(indices[i]) % N].cast_signed();
    }
    let [a, b, c, d, e, f, g, h] = found;
    intrinsic!(_mm256_setr_epi32(a, b, c, d, e, f, g, h))
}

/// Rows of each vector of four points. The sums of neighbours then come in the order of the rows.
const ROWS: [[usize; 4]; 4] = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]];

/// Gives eight bytes of `x` the signs of four rows.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn sign_rows<const V: usize>(x: __m256i, signs: &[u8; LANES]) -> __m256i {
    let (halves, _) = signs.as_chunks::<8>();
    intrinsic!({
        // Each byte gets the byte of its row, and then its bit alone.
        let row = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0404_0404_0404_0404, 0x0505_0505_0505_0505);
        let row = if V.is_multiple_of(2) { row } else { _mm256_add_epi8(row, _mm256_set1_epi8(2)) };
        let bits = _mm256_shuffle_epi8(_mm256_set1_epi64x(i64::from_le_bytes(halves[V / 2])), row);
        let single = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let negative = _mm256_cmpeq_epi8(_mm256_and_si256(bits, single), single);
        _mm256_sub_epi8(_mm256_xor_si256(x, negative), negative)
    })
}

/// Loads eight bytes of `x` for each of four rows.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn load_eight(x: &[i32; 2]) -> __m256i {
    intrinsic!(_mm256_broadcastq_epi64(_mm_loadl_epi64(x.as_ptr().cast())))
}

/// Looks up points of eight bytes for the four rows of a vector.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn gather_eights<I: PointIndex<N>, const N: usize, const V: usize>(
    points: &[u64; N],
    indices: &[I; LANES],
) -> __m256i {
    let mut found = [0; 4];
    for i in 0..4 {
        found[i] = indices[ROWS[V][i]].find(points).cast_signed();
    }
    intrinsic!(_mm256_setr_epi64x(found[0], found[1], found[2], found[3]))
}

/// Looks up two points of four bytes for each of the four rows of a vector.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn gather_fours<I: PointIndex<N>, const N: usize, const V: usize>(
    points: &[u32; N],
    indices: &[[I; LANES]; 2],
) -> __m256i {
    let mut found = [0; 8];
    for i in 0..8 {
        found[i] = indices[i % 2][ROWS[V][i / 2]].find(points).cast_signed();
    }
    let [a, b, c, d, e, f, g, h] = found;
    intrinsic!(_mm256_setr_epi32(a, b, c, d, e, f, g, h))
}

/// Adds the products of two vectors of points, whose bytes are at most 62, and their columns of `x`.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn add_points(sum: __m256i, points: [__m256i; 2], x: [__m256i; 2]) -> __m256i {
    intrinsic!({
        // Two pairs are at most 4 · 62 · 127, so 16 bits hold them.
        let (first, second) = (_mm256_maddubs_epi16(points[0], x[0]), _mm256_maddubs_epi16(points[1], x[1]));
        _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(first, second), _mm256_set1_epi16(1)))
    })
}

impl Int8Simd for Avx2 {
    type Float = Avx2;
    type B = IntHalves;
    type I = IntHalves;
    /// Two sums of sixteen bits for each lane.
    type Shorts = IntHalves;
    const HAS_SHORTS: bool = true;
    /// Two sums for each row, in the order of [`ROWS`].
    type Partial = [__m256i; 4];
    const LOADS_FOURS: bool = true;
    const SIGNED_OFFSET: i32 = 0;

    #[inline(always)]
    fn float(self) -> Avx2 {
        self
    }
    #[inline(always)]
    fn load(self, x: &[u8; VECTOR_BYTES]) -> IntHalves {
        intrinsic!(IntHalves(_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(32).cast())))
    }
    #[inline(always)]
    fn and(self, x: IntHalves, mask: u8) -> IntHalves {
        both!(x => half, _mm256_and_si256(half, _mm256_set1_epi8(mask.cast_signed())))
    }
    #[inline(always)]
    fn or(self, a: IntHalves, b: IntHalves) -> IntHalves {
        intrinsic!(IntHalves(_mm256_or_si256(a.0, b.0), _mm256_or_si256(a.1, b.1)))
    }
    #[inline(always)]
    fn shift_right(self, x: IntHalves, bits: i32) -> IntHalves {
        both!(x => half, _mm256_srl_epi16(half, _mm_cvtsi32_si128(bits)))
    }
    #[inline(always)]
    fn shift_left(self, x: IntHalves, bits: i32) -> IntHalves {
        both!(x => half, _mm256_sll_epi16(half, _mm_cvtsi32_si128(bits)))
    }
    #[inline(always)]
    fn look_up(self, table: &[i8; 16], x: IntHalves) -> IntHalves {
        both!(x => half, {
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), half)
        })
    }
    #[inline(always)]
    fn reflect(self, sum: u8, x: IntHalves, chosen: &[u8; VECTOR_BYTES / 8]) -> IntHalves {
        let (bits, _) = chosen.as_chunks::<4>();
        intrinsic!({
            let (low, high) = (expand_bits(i32::from_le_bytes(bits[0])), expand_bits(i32::from_le_bytes(bits[1])));
            // The complement of a byte is one less than its negative.
            let sum = _mm256_set1_epi8(sum.wrapping_add(1).cast_signed());
            let first = _mm256_add_epi8(_mm256_xor_si256(x.0, low), _mm256_and_si256(sum, low));
            IntHalves(first, _mm256_add_epi8(_mm256_xor_si256(x.1, high), _mm256_and_si256(sum, high)))
        })
    }
    #[inline(always)]
    fn look_up_eights<const N: usize>(self, points: &EightPoints<N>, indices: &Indices) -> [[IntHalves; 2]; 2] {
        let (parts, _) = indices.as_chunks::<8>();
        intrinsic!({
            let [a, b] = look_up_eights(&points.points, &parts[0]);
            let [c, d] = look_up_eights(&points.points, &parts[1]);
            let first = [IntHalves(a, c), IntHalves(b, d)];
            let [a, b] = look_up_eights(&points.points, &parts[2]);
            let [c, d] = look_up_eights(&points.points, &parts[3]);
            [first, [IntHalves(a, c), IntHalves(b, d)]]
        })
    }
    #[inline(always)]
    fn look_up_fours<const N: usize>(self, points: &FourPoints<N>, indices: &Indices) -> [IntHalves; 2] {
        let (parts, _) = indices.as_chunks::<8>();
        intrinsic!({
            let first = look_up_fours(&points.points, &parts[0]);
            let first = IntHalves(first, look_up_fours(&points.points, &parts[1]));
            let second = look_up_fours(&points.points, &parts[2]);
            [first, IntHalves(second, look_up_fours(&points.points, &parts[3]))]
        })
    }
    #[inline(always)]
    fn no_sums(self) -> [__m256i; 4] {
        intrinsic!([_mm256_setzero_si256(); 4])
    }
    #[inline(always)]
    fn add_eights<I: PointIndex<N>, const N: usize>(
        self,
        sums: [__m256i; 4],
        points: &[u64; N],
        indices: &[[I; LANES]; 2],
        signs: Option<&[[u8; LANES]; 2]>,
        x: &[[i32; 2]; 2],
    ) -> [__m256i; 4] {
        /// Adds the products of four rows.
        macro_rules! add {
            ($v:literal) => {{
                let found =
                    [gather_eights::<I, N, $v>(points, &indices[0]), gather_eights::<I, N, $v>(points, &indices[1])];
                let mut x = [load_eight(&x[0]), load_eight(&x[1])];
                if let Some(signs) = signs {
                    x = [sign_rows::<$v>(x[0], &signs[0]), sign_rows::<$v>(x[1], &signs[1])];
                }
                add_points(sums[$v], found, x)
            }};
        }
        intrinsic!([add!(0), add!(1), add!(2), add!(3)])
    }
    #[inline(always)]
    fn add_fours<I: PointIndex<N>, const N: usize>(
        self,
        sums: [__m256i; 4],
        points: &[u32; N],
        indices: &[[[I; LANES]; 2]; 2],
        signs: &[[u8; LANES]; 2],
        x: &[[i32; 2]; 2],
    ) -> [__m256i; 4] {
        /// Adds the products of four rows.
        macro_rules! add {
            ($v:literal) => {{
                let found =
                    [gather_fours::<I, N, $v>(points, &indices[0]), gather_fours::<I, N, $v>(points, &indices[1])];
                let (first, second) = (load_eight(&x[0]), load_eight(&x[1]));
                let x = [sign_rows::<$v>(first, &signs[0]), sign_rows::<$v>(second, &signs[1])];
                add_points(sums[$v], found, x)
            }};
        }
        intrinsic!([add!(0), add!(1), add!(2), add!(3)])
    }
    #[inline(always)]
    fn finish_sums(self, sums: [__m256i; 4], more: &[i32; LANES]) -> IntHalves {
        intrinsic!({
            let first = _mm256_loadu_si256(more.as_ptr().cast());
            let second = _mm256_loadu_si256(more.as_ptr().add(8).cast());
            IntHalves(
                _mm256_add_epi32(_mm256_hadd_epi32(sums[0], sums[1]), first),
                _mm256_add_epi32(_mm256_hadd_epi32(sums[2], sums[3]), second),
            )
        })
    }
    #[inline(always)]
    fn store(self, x: IntHalves, to: &mut [u8; VECTOR_BYTES]) {
        intrinsic!({
            _mm256_storeu_si256(to.as_mut_ptr().cast(), x.0);
            _mm256_storeu_si256(to.as_mut_ptr().add(32).cast(), x.1);
        });
    }
    #[inline(always)]
    fn splat(self, x: i32) -> IntHalves {
        intrinsic!(IntHalves(_mm256_set1_epi32(x), _mm256_set1_epi32(x)))
    }
    #[inline(always)]
    fn dot(self, sum: IntHalves, weights: IntHalves, x: i32) -> IntHalves {
        intrinsic!({
            let (x, ones) = (_mm256_set1_epi32(x), _mm256_set1_epi16(1));
            // A pair is at most 2 · 127 · 127, so 16 bits hold it.
            let first = _mm256_madd_epi16(_mm256_maddubs_epi16(weights.0, x), ones);
            let second = _mm256_madd_epi16(_mm256_maddubs_epi16(weights.1, x), ones);
            IntHalves(_mm256_add_epi32(sum.0, first), _mm256_add_epi32(sum.1, second))
        })
    }
    #[inline(always)]
    fn no_shorts(self) -> IntHalves {
        intrinsic!(IntHalves(_mm256_setzero_si256(), _mm256_setzero_si256()))
    }
    #[inline(always)]
    fn dot_short(self, sum: IntHalves, weights: IntHalves, x: i32) -> IntHalves {
        intrinsic!({
            let x = _mm256_set1_epi32(x);
            let first = _mm256_add_epi16(sum.0, _mm256_maddubs_epi16(weights.0, x));
            IntHalves(first, _mm256_add_epi16(sum.1, _mm256_maddubs_epi16(weights.1, x)))
        })
    }
    #[inline(always)]
    fn add_shorts(self, sum: IntHalves, shorts: IntHalves) -> IntHalves {
        intrinsic!({
            let ones = _mm256_set1_epi16(1);
            let first = _mm256_add_epi32(sum.0, _mm256_madd_epi16(shorts.0, ones));
            IntHalves(first, _mm256_add_epi32(sum.1, _mm256_madd_epi16(shorts.1, ones)))
        })
    }
    #[inline(always)]
    fn take_digits(self, x: IntHalves) -> [IntHalves; 2] {
        // Tripled, a byte still lacks 128, in eight bits.
        let digits = both!(x => half, {
            let first = _mm256_cmpgt_epi8(half, _mm256_set1_epi8(FIRST_DIGIT));
            let second = _mm256_cmpgt_epi8(half, _mm256_set1_epi8(SECOND_DIGIT));
            _mm256_sub_epi8(_mm256_sub_epi8(_mm256_setzero_si256(), first), second)
        });
        [digits, both!(x => half, _mm256_add_epi8(_mm256_add_epi8(half, half), half))]
    }
    #[inline(always)]
    fn dot_signed(self, sum: IntHalves, weights: IntHalves, x: i32) -> IntHalves {
        intrinsic!({
            let (x, ones) = (_mm256_set1_epi32(x), _mm256_set1_epi16(1));
            // The weight's sign goes to x, which is never -128. A pair is at most 2 · 128 · 127, so 16 bits hold it.
            let (low, high) = (_mm256_sign_epi8(x, weights.0), _mm256_sign_epi8(x, weights.1));
            let first = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(weights.0), low), ones);
            let second = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(weights.1), high), ones);
            IntHalves(_mm256_add_epi32(sum.0, first), _mm256_add_epi32(sum.1, second))
        })
    }
    #[inline(always)]
    fn widen(self, x: IntHalves) -> F32x16 {
        intrinsic!(F32x16(_mm256_cvtepi32_ps(x.0), _mm256_cvtepi32_ps(x.1)))
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; LANES]) -> F32x16 {
        intrinsic!({
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            let first = _mm256_cvtepu8_epi32(bytes);
            F32x16(_mm256_cvtepi32_ps(first), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))))
        })
    }
}
