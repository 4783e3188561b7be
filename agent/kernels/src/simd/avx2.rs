//! Sixteen lanes in two AVX2 registers.

pub(super) mod bytes;

use super::{Kernel, LANES, Simd};
use std::arch::x86_64::*;

/// Proof of AVX2, FMA and F16C; made in [`run`] alone.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Lanes 0–7 and 8–15.
#[derive(Clone, Copy)]
pub(crate) struct V(__m256, __m256);

/// Runs `kernel` compiled for AVX2.
///
/// # Safety
/// The machine must have these features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run(kernel: impl Kernel) {
    kernel.run(Avx2(()));
}

/// States once why calling an instruction of this set is sound.
macro_rules! have {
    ($call:expr) => {
        // SAFETY: a value of `Avx2` exists, so the machine has the instruction; memory operands are
        // references to sixteen elements, read or written by unaligned halves.
        unsafe { $call }
    };
}

/// One instruction on both halves.
macro_rules! both {
    ($instruction:ident, $($operand:ident),+) => {
        have!(V($instruction($($operand.0),+), $instruction($($operand.1),+)))
    };
}

/// Two integer halves shifted left, as floats. A macro, for a closure would lack the features.
macro_rules! shifted {
    ($bits:literal, $first:ident, $second:ident) => {
        V(
            _mm256_castsi256_ps(_mm256_slli_epi32::<$bits>($first)),
            _mm256_castsi256_ps(_mm256_slli_epi32::<$bits>($second)),
        )
    };
}

impl Simd for Avx2 {
    type V = V;
    const SUMS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        have!(V(_mm256_set1_ps(x), _mm256_set1_ps(x)))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> V {
        have!(V(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))))
    }
    #[inline(always)]
    fn store(self, x: V, to: &mut [f32; LANES]) {
        have!({
            _mm256_storeu_ps(to.as_mut_ptr(), x.0);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x.1);
        })
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn round(self, x: V) -> V {
        have!({
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            V(_mm256_round_ps::<NEAREST>(x.0), _mm256_round_ps::<NEAREST>(x.1))
        })
    }
    #[inline(always)]
    fn exp2_whole(self, x: V) -> V {
        have!({
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_add_epi32(_mm256_cvtps_epi32(x.0), bias);
            let second = _mm256_add_epi32(_mm256_cvtps_epi32(x.1), bias);
            shifted!(23, first, second)
        })
    }
    #[inline(always)]
    fn bf16_pairs(self, x: &[u32; LANES]) -> [V; 2] {
        have!({
            let first = _mm256_loadu_si256(x.as_ptr().cast());
            let second = _mm256_loadu_si256(x.as_ptr().add(8).cast());
            let mask = _mm256_set1_epi32(0xFFFF_0000_u32 as i32);
            let high = _mm256_castsi256_ps(_mm256_and_si256(first, mask));
            let high = V(high, _mm256_castsi256_ps(_mm256_and_si256(second, mask)));
            [shifted!(16, first, second), high]
        })
    }
    #[inline(always)]
    fn widen_bf16(self, x: &[u16; LANES]) -> V {
        have!({
            let first = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let second = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(8).cast()));
            shifted!(16, first, second)
        })
    }
    #[inline(always)]
    fn widen_f16(self, x: &[u16; LANES]) -> V {
        have!(V(
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
        ))
    }
}
