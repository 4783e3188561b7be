//! Integer products of bytes with AVX2: products are added in pairs to 16 bits, then in fours to 32 bits.

use std::arch::x86_64::*;

use super::{Avx2, F32x16};
use crate::simd::LANES;
use crate::simd::int8::{Int8Kernel, Int8Simd, VECTOR_BYTES};

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

impl Int8Simd for Avx2 {
    type Float = Avx2;
    type B = IntHalves;
    type I = IntHalves;
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
    fn splat(self, x: i32) -> IntHalves {
        intrinsic!(IntHalves(_mm256_set1_epi32(x), _mm256_set1_epi32(x)))
    }
    #[inline(always)]
    fn dot(self, sum: IntHalves, weights: IntHalves, x: i32) -> IntHalves {
        intrinsic!({
            let (x, ones) = (_mm256_set1_epi32(x), _mm256_set1_epi16(1));
            // A pair is at most 2 · 63 · 127, so 16 bits hold it.
            let first = _mm256_madd_epi16(_mm256_maddubs_epi16(weights.0, x), ones);
            let second = _mm256_madd_epi16(_mm256_maddubs_epi16(weights.1, x), ones);
            IntHalves(_mm256_add_epi32(sum.0, first), _mm256_add_epi32(sum.1, second))
        })
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
