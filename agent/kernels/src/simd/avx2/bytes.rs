//! Products of bytes with AVX2: pairs in 16 bits, then fours in 32.

use super::{Avx2, V};
use crate::simd::LANES;
use crate::simd::bytes::{BYTES, Bytes, BytesKernel};
use std::arch::x86_64::*;

/// Runs `kernel` compiled for AVX2.
///
/// # Safety
/// The machine must have these features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::simd) unsafe fn run(kernel: impl BytesKernel) {
    kernel.run(Avx2(()));
}

/// States once why calling an instruction of this set is sound.
macro_rules! have {
    ($call:expr) => {
        // SAFETY: a value of `Avx2` exists, so the machine has the instruction; memory operands are
        // references to as many bytes as are read, without alignment.
        unsafe { $call }
    };
}

/// Lanes 0–7 and 8–15, of bytes or of i32.
#[derive(Clone, Copy)]
pub(crate) struct Halves(__m256i, __m256i);

/// One instruction on both halves.
macro_rules! both {
    ($x:ident => $half:ident, $call:expr) => {
        have!({
            let $half = $x.0;
            let first = $call;
            let $half = $x.1;
            Halves(first, $call)
        })
    };
}

impl Bytes for Avx2 {
    type Float = Avx2;
    type B = Halves;
    type I = Halves;
    const SIGNED_OFFSET: i32 = 0;

    #[inline(always)]
    fn float(self) -> Avx2 {
        self
    }
    #[inline(always)]
    fn load(self, x: &[u8; BYTES]) -> Halves {
        have!(Halves(_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(32).cast())))
    }
    #[inline(always)]
    fn and(self, x: Halves, mask: u8) -> Halves {
        both!(x => half, _mm256_and_si256(half, _mm256_set1_epi8(mask.cast_signed())))
    }
    #[inline(always)]
    fn or(self, a: Halves, b: Halves) -> Halves {
        have!(Halves(_mm256_or_si256(a.0, b.0), _mm256_or_si256(a.1, b.1)))
    }
    #[inline(always)]
    fn shift_right(self, x: Halves, bits: i32) -> Halves {
        both!(x => half, _mm256_srl_epi16(half, _mm_cvtsi32_si128(bits)))
    }
    #[inline(always)]
    fn shift_left(self, x: Halves, bits: i32) -> Halves {
        both!(x => half, _mm256_sll_epi16(half, _mm_cvtsi32_si128(bits)))
    }
    #[inline(always)]
    fn splat(self, x: i32) -> Halves {
        have!(Halves(_mm256_set1_epi32(x), _mm256_set1_epi32(x)))
    }
    #[inline(always)]
    fn dot(self, sum: Halves, weights: Halves, x: i32) -> Halves {
        have!({
            let (x, ones) = (_mm256_set1_epi32(x), _mm256_set1_epi16(1));
            // At most 2 · 63 · 127, so 16 bits hold a pair.
            let first = _mm256_madd_epi16(_mm256_maddubs_epi16(weights.0, x), ones);
            let second = _mm256_madd_epi16(_mm256_maddubs_epi16(weights.1, x), ones);
            Halves(_mm256_add_epi32(sum.0, first), _mm256_add_epi32(sum.1, second))
        })
    }
    #[inline(always)]
    fn dot_signed(self, sum: Halves, weights: Halves, x: i32) -> Halves {
        have!({
            let (x, ones) = (_mm256_set1_epi32(x), _mm256_set1_epi16(1));
            // The weight's sign goes to x, which is never -128. At most 2 · 128 · 127, so 16 bits hold a pair.
            let (low, high) = (_mm256_sign_epi8(x, weights.0), _mm256_sign_epi8(x, weights.1));
            let first = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(weights.0), low), ones);
            let second = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(weights.1), high), ones);
            Halves(_mm256_add_epi32(sum.0, first), _mm256_add_epi32(sum.1, second))
        })
    }
    #[inline(always)]
    fn widen(self, x: Halves) -> V {
        have!(V(_mm256_cvtepi32_ps(x.0), _mm256_cvtepi32_ps(x.1)))
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; LANES]) -> V {
        have!({
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            let first = _mm256_cvtepu8_epi32(bytes);
            V(_mm256_cvtepi32_ps(first), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))))
        })
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> V {
        have!({
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            let first = _mm256_cvtepi8_epi32(bytes);
            V(_mm256_cvtepi32_ps(first), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))))
        })
    }
}
