//! Integer products of bytes with AVX-512 VNNI: one instruction multiplies four bytes a lane and adds them.

use std::arch::x86_64::*;

use super::Avx512;
use crate::simd::LANES;
use crate::simd::avx2;
use crate::simd::int8::{EightPoints, FourPoints, Indices, Int8Kernel, Int8Simd, PointIndex, VECTOR_BYTES};
use crate::simd::int8::{FIRST_DIGIT, SECOND_DIGIT};

/// Proof that the machine has AVX-512 with VNNI. Only [`run`] makes it.
#[derive(Clone, Copy)]
pub(crate) struct Vnni(Avx512);

/// Runs `kernel` compiled for AVX-512 with VNNI.
///
/// # Safety
/// The machine must have VNNI and what [`Avx512`] proves.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::simd) unsafe fn run(kernel: impl Int8Kernel) {
    kernel.run(Vnni(Avx512(())));
}

/// Wraps an intrinsic and states once why the call is sound.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: a value of `Vnni` exists, so the machine has the instruction. Memory operands are references to as
        // many bytes as the instruction reads, without alignment.
        unsafe { $call }
    };
}

/// Most parts of a table that are looked up by permutations.
const MAX_PARTS: usize = 16;

/// Joins two halves.
///
/// # Safety
/// The machine must have AVX-512 F.
#[inline(always)]
unsafe fn join(low: __m256i, high: __m256i) -> __m512i {
    intrinsic!(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
}

/// Returns the indices of four bytes of each word of four, for a shuffle within sixteen bytes.
///
/// # Safety
/// The machine must have AVX-512 F.
#[inline(always)]
unsafe fn quarters(bytes: i32) -> __m512i {
    intrinsic!({
        let words = _mm_setr_epi32(bytes, bytes + 0x0404_0404, bytes + 0x0808_0808, bytes + 0x0C0C_0C0C);
        _mm512_broadcast_i32x4(words)
    })
}

/// Looks up 32 words of a table, whose length is 64 times a power of two: permutes parts of 64 words, and chooses among the
/// results by the upper bits of the indices.
///
/// # Safety
/// The machine must have AVX-512 BW.
#[inline(always)]
unsafe fn permute_words<const N: usize>(table: &[u16; N], indices: &Indices) -> __m512i {
    debug_assert!(N.is_multiple_of(64) && (N / 64).is_power_of_two() && N / 64 <= MAX_PARTS);
    intrinsic!({
        let indices = _mm512_loadu_si512(indices.as_ptr().cast());
        let mut found = [indices; MAX_PARTS];
        for (found, part) in found.iter_mut().zip(table.as_chunks::<64>().0) {
            let halves = part.as_ptr();
            let (low, high) = (_mm512_loadu_si512(halves.cast()), _mm512_loadu_si512(halves.add(32).cast()));
            *found = _mm512_permutex2var_epi16(low, indices, high);
        }
        let (mut count, mut bit) = (N / 64, 64);
        while count > 1 {
            count /= 2;
            let is_odd = _mm512_test_epi16_mask(indices, _mm512_set1_epi16(bit));
            for i in 0..count {
                found[i] = _mm512_mask_mov_epi16(found[2 * i], is_odd, found[2 * i + 1]);
            }
            bit *= 2;
        }
        found[0]
    })
}

/// Spreads eight codes of two bits over bytes, for each of sixteen words: the first four, and the others. The odd ones are
/// four times as large.
///
/// # Safety
/// The machine must have AVX-512 BW.
#[inline(always)]
unsafe fn spread_pairs(words: __m256i) -> [__m512i; 2] {
    intrinsic!({
        let words = _mm512_cvtepu16_epi32(words);
        // A byte with the codes 0 to 3 stays, and one with the codes 2 and 3 is put two bytes above.
        let high = _mm512_and_si512(_mm512_slli_epi32::<12>(words), _mm512_set1_epi32(0x0F0F_0000));
        let both = _mm512_or_si512(words, high);
        let first = _mm512_shuffle_epi8(both, quarters(0x0202_0000));
        let second = _mm512_shuffle_epi8(both, quarters(0x0303_0101));
        let mask = _mm512_set1_epi16(0x0C03);
        [_mm512_and_si512(first, mask), _mm512_and_si512(second, mask)]
    })
}

/// Spreads four codes of four bits over bytes, for each of sixteen words.
///
/// # Safety
/// The machine must have AVX-512 BW.
#[inline(always)]
unsafe fn spread_nibbles(words: __m256i) -> __m512i {
    intrinsic!({
        let pairs = _mm512_shuffle_epi8(_mm512_cvtepu16_epi32(words), quarters(0x0101_0000));
        let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), _mm512_set1_epi16(0x0F00));
        _mm512_or_si512(_mm512_and_si512(pairs, _mm512_set1_epi16(0x000F)), odd)
    })
}

/// Looks up points of eight bytes for eight rows from `first` on.
///
/// # Safety
/// The machine must have AVX-512 F.
#[inline(always)]
unsafe fn gather_eights<I: PointIndex<N>, const N: usize>(
    points: &[u64; N],
    indices: &[I; LANES],
    first: usize,
) -> __m512i {
    let mut found = [0; 8];
    for i in 0..8 {
        found[i] = indices[first + i].find(points).cast_signed();
    }
    let [a, b, c, d, e, f, g, h] = found;
    intrinsic!(join(_mm256_setr_epi64x(a, b, c, d), _mm256_setr_epi64x(e, f, g, h)))
}

/// Looks up two points of four bytes for each of eight rows from `first` on.
///
/// # Safety
/// The machine must have AVX-512 F.
#[inline(always)]
unsafe fn gather_fours<I: PointIndex<N>, const N: usize>(
    points: &[u32; N],
    indices: &[[I; LANES]; 2],
    first: usize,
) -> __m512i {
    let mut found = [0; 16];
    for i in 0..16 {
        found[i] = indices[i % 2][first + i / 2].find(points).cast_signed();
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = found;
    intrinsic!(join(_mm256_setr_epi32(a, b, c, d, e, f, g, h), _mm256_setr_epi32(i, j, k, l, m, n, o, p)))
}

/// Adds the products of the points of eight rows from `first` on and eight bytes of `x`.
///
/// # Safety
/// The machine must have AVX-512 with VNNI.
#[inline(always)]
unsafe fn add_points(
    sum: __m512i,
    points: __m512i,
    signs: Option<&[u8; LANES]>,
    first: usize,
    x: &[i32; 2],
) -> __m512i {
    intrinsic!({
        let mut x = _mm512_broadcastq_epi64(_mm_loadl_epi64(x.as_ptr().cast()));
        if let Some(signs) = signs {
            let negative = u64::from_le_bytes(signs.as_chunks().0[first / 8]);
            x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
        }
        _mm512_dpbusd_epi32(sum, points, x)
    })
}

impl Int8Simd for Vnni {
    type Float = Avx512;
    type B = __m512i;
    type I = __m512i;
    type Shorts = __m512i;
    const HAS_SHORTS: bool = false;
    /// Two sums for each row.
    type Partial = [__m512i; 2];
    const LOADS_FOURS: bool = false;
    /// 128, because the instruction takes unsigned weights: flipping the sign bit of a weight adds 128 to it.
    const SIGNED_OFFSET: i32 = 128;

    #[inline(always)]
    fn float(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    fn load(self, x: &[u8; VECTOR_BYTES]) -> __m512i {
        intrinsic!(_mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn and(self, x: __m512i, mask: u8) -> __m512i {
        intrinsic!(_mm512_and_si512(x, _mm512_set1_epi8(mask.cast_signed())))
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        intrinsic!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn shift_right(self, x: __m512i, bits: i32) -> __m512i {
        intrinsic!(_mm512_srl_epi16(x, _mm_cvtsi32_si128(bits)))
    }
    #[inline(always)]
    fn shift_left(self, x: __m512i, bits: i32) -> __m512i {
        intrinsic!(_mm512_sll_epi16(x, _mm_cvtsi32_si128(bits)))
    }
    #[inline(always)]
    fn look_up(self, table: &[i8; 16], x: __m512i) -> __m512i {
        intrinsic!(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), x))
    }
    #[inline(always)]
    fn reflect(self, sum: u8, x: __m512i, chosen: &[u8; VECTOR_BYTES / 8]) -> __m512i {
        intrinsic!(_mm512_mask_sub_epi8(x, u64::from_le_bytes(*chosen), _mm512_set1_epi8(sum.cast_signed()), x))
    }
    #[inline(always)]
    fn look_up_eights<const N: usize>(self, points: &EightPoints<N>, indices: &Indices) -> [[__m512i; 2]; 2] {
        if N > MAX_PARTS * 64 {
            // The table is too large for permutations.
            let (parts, _) = indices.as_chunks::<8>();
            intrinsic!({
                let [a, b] = avx2::int8::look_up_eights(&points.points, &parts[0]);
                let [c, d] = avx2::int8::look_up_eights(&points.points, &parts[1]);
                let first = [join(a, c), join(b, d)];
                let [a, b] = avx2::int8::look_up_eights(&points.points, &parts[2]);
                let [c, d] = avx2::int8::look_up_eights(&points.points, &parts[3]);
                [first, [join(a, c), join(b, d)]]
            })
        } else {
            intrinsic!({
                let codes = permute_words(&points.codes, indices);
                let [a, b] = spread_pairs(_mm512_castsi512_si256(codes));
                let [c, d] = spread_pairs(_mm512_extracti64x4_epi64::<1>(codes));
                let bytes = &points.bytes;
                [[self.look_up(bytes, a), self.look_up(bytes, b)], [self.look_up(bytes, c), self.look_up(bytes, d)]]
            })
        }
    }
    #[inline(always)]
    fn look_up_fours<const N: usize>(self, points: &FourPoints<N>, indices: &Indices) -> [__m512i; 2] {
        intrinsic!({
            let codes = permute_words(&points.codes, indices);
            let first = spread_nibbles(_mm512_castsi512_si256(codes));
            let second = spread_nibbles(_mm512_extracti64x4_epi64::<1>(codes));
            [self.look_up(&points.bytes, first), self.look_up(&points.bytes, second)]
        })
    }
    #[inline(always)]
    fn no_sums(self) -> [__m512i; 2] {
        intrinsic!([_mm512_setzero_si512(); 2])
    }
    #[inline(always)]
    fn add_eights<I: PointIndex<N>, const N: usize>(
        self,
        mut sums: [__m512i; 2],
        points: &[u64; N],
        indices: &[[I; LANES]; 2],
        signs: Option<&[[u8; LANES]; 2]>,
        x: &[[i32; 2]; 2],
    ) -> [__m512i; 2] {
        for eight in 0..2 {
            let signs = signs.map(|signs| &signs[eight]);
            intrinsic!({
                let (low, high) =
                    (gather_eights(points, &indices[eight], 0), gather_eights(points, &indices[eight], 8));
                sums[0] = add_points(sums[0], low, signs, 0, &x[eight]);
                sums[1] = add_points(sums[1], high, signs, 8, &x[eight]);
            });
        }
        sums
    }
    #[inline(always)]
    fn add_fours<I: PointIndex<N>, const N: usize>(
        self,
        mut sums: [__m512i; 2],
        points: &[u32; N],
        indices: &[[[I; LANES]; 2]; 2],
        signs: &[[u8; LANES]; 2],
        x: &[[i32; 2]; 2],
    ) -> [__m512i; 2] {
        for eight in 0..2 {
            intrinsic!({
                let (low, high) = (gather_fours(points, &indices[eight], 0), gather_fours(points, &indices[eight], 8));
                sums[0] = add_points(sums[0], low, Some(&signs[eight]), 0, &x[eight]);
                sums[1] = add_points(sums[1], high, Some(&signs[eight]), 8, &x[eight]);
            });
        }
        sums
    }
    #[inline(always)]
    fn finish_sums(self, sums: [__m512i; 2], more: &[i32; LANES]) -> __m512i {
        intrinsic!({
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            let first = _mm512_permutex2var_epi32(sums[0], even, sums[1]);
            let second = _mm512_permutex2var_epi32(sums[0], odd, sums[1]);
            _mm512_add_epi32(_mm512_add_epi32(first, second), _mm512_loadu_si512(more.as_ptr().cast()))
        })
    }
    #[inline(always)]
    fn store(self, x: __m512i, to: &mut [u8; VECTOR_BYTES]) {
        intrinsic!(_mm512_storeu_si512(to.as_mut_ptr().cast(), x));
    }
    #[inline(always)]
    fn splat(self, x: i32) -> __m512i {
        intrinsic!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn dot(self, sum: __m512i, weights: __m512i, x: i32) -> __m512i {
        intrinsic!(_mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(x)))
    }
    #[inline(always)]
    fn no_shorts(self) -> __m512i {
        intrinsic!(_mm512_setzero_si512())
    }
    #[inline(always)]
    fn dot_short(self, sum: __m512i, weights: __m512i, x: i32) -> __m512i {
        self.dot(sum, weights, x)
    }
    #[inline(always)]
    fn add_shorts(self, sum: __m512i, shorts: __m512i) -> __m512i {
        intrinsic!(_mm512_add_epi32(sum, shorts))
    }
    #[inline(always)]
    fn take_digits(self, x: __m512i) -> [__m512i; 2] {
        // Tripled, a byte still lacks 128, in eight bits.
        intrinsic!({
            let is_one = _mm512_cmpgt_epi8_mask(x, _mm512_set1_epi8(FIRST_DIGIT));
            let is_two = _mm512_cmpgt_epi8_mask(x, _mm512_set1_epi8(SECOND_DIGIT));
            let ones = _mm512_maskz_mov_epi8(is_one, _mm512_set1_epi8(1));
            let digits = _mm512_mask_mov_epi8(ones, is_two, _mm512_set1_epi8(2));
            [digits, _mm512_add_epi8(_mm512_add_epi8(x, x), x)]
        })
    }
    #[inline(always)]
    fn dot_signed(self, sum: __m512i, weights: __m512i, x: i32) -> __m512i {
        intrinsic!({
            let unsigned = _mm512_xor_si512(weights, _mm512_set1_epi8(-128));
            _mm512_dpbusd_epi32(sum, unsigned, _mm512_set1_epi32(x))
        })
    }
    #[inline(always)]
    fn widen(self, x: __m512i) -> __m512 {
        intrinsic!(_mm512_cvtepi32_ps(x))
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; LANES]) -> __m512 {
        intrinsic!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }
}
