//! Sixteen lanes in two AVX2 registers.

pub(super) mod int8;

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// Proof that the machine has AVX2, FMA and F16C. Only [`run`] makes it.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Sixteen f32 in two registers: lanes 0–7 and 8–15.
#[derive(Clone, Copy)]
pub(crate) struct F32x16(__m256, __m256);

/// Runs `kernel` compiled for AVX2.
///
/// # Safety
/// The machine must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run(kernel: impl Kernel) {
    kernel.run(Avx2(()));
}

/// Wraps an intrinsic and states once why the call is sound.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: a value of `Avx2` exists, so the machine has the instruction. Memory operands are references to
        // sixteen elements, which are read or written by unaligned halves.
        unsafe { $call }
    };
}

/// Applies one instruction to both halves.
macro_rules! both {
    ($instruction:ident, $($operand:ident),+) => {
        intrinsic!(F32x16($instruction($($operand.0),+), $instruction($($operand.1),+)))
    };
}

/// Shifts two integer halves left and takes them as floats. A macro, because a closure would lack the target features.
macro_rules! shifted {
    ($bits:literal, $first:ident, $second:ident) => {
        F32x16(
            _mm256_castsi256_ps(_mm256_slli_epi32::<$bits>($first)),
            _mm256_castsi256_ps(_mm256_slli_epi32::<$bits>($second)),
        )
    };
}

/// Returns the numbers of a table of sixteen, in two halves, at the low four bits of each index.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn select(low: __m256, high: __m256, index: __m256i) -> __m256 {
    // SAFETY: the caller promises the instructions, and no memory is touched. A permutation reads the low three bits of
    // an index. The blend reads its sign, which is the fourth bit here.
    unsafe {
        let is_high = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index), is_high)
    }
}

impl Simd for Avx2 {
    type V = F32x16;
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> F32x16 {
        intrinsic!(F32x16(_mm256_set1_ps(x), _mm256_set1_ps(x)))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F32x16 {
        intrinsic!(F32x16(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))))
    }
    #[inline(always)]
    fn store(self, x: F32x16, to: &mut [f32; LANES]) {
        intrinsic!({
            _mm256_storeu_ps(to.as_mut_ptr(), x.0);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x.1);
        })
    }
    #[inline(always)]
    fn add(self, a: F32x16, b: F32x16) -> F32x16 {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: F32x16, b: F32x16) -> F32x16 {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: F32x16, b: F32x16) -> F32x16 {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: F32x16, b: F32x16) -> F32x16 {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn max(self, a: F32x16, b: F32x16) -> F32x16 {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: F32x16, b: F32x16) -> F32x16 {
        both!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: F32x16, b: F32x16, c: F32x16) -> F32x16 {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn round(self, x: F32x16) -> F32x16 {
        intrinsic!({
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            F32x16(_mm256_round_ps::<NEAREST>(x.0), _mm256_round_ps::<NEAREST>(x.1))
        })
    }
    #[inline(always)]
    fn exp2_int(self, x: F32x16) -> F32x16 {
        intrinsic!({
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_add_epi32(_mm256_cvtps_epi32(x.0), bias);
            let second = _mm256_add_epi32(_mm256_cvtps_epi32(x.1), bias);
            shifted!(23, first, second)
        })
    }
    #[inline(always)]
    fn bf16_pairs(self, x: &[u32; LANES]) -> [F32x16; 2] {
        intrinsic!({
            let first = _mm256_loadu_si256(x.as_ptr().cast());
            let second = _mm256_loadu_si256(x.as_ptr().add(8).cast());
            let mask = _mm256_set1_epi32(0xFFFF_0000_u32 as i32);
            let high = _mm256_castsi256_ps(_mm256_and_si256(first, mask));
            let high = F32x16(high, _mm256_castsi256_ps(_mm256_and_si256(second, mask)));
            [shifted!(16, first, second), high]
        })
    }
    #[inline(always)]
    fn widen_bf16(self, x: &[u16; LANES]) -> F32x16 {
        intrinsic!({
            let first = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let second = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(8).cast()));
            shifted!(16, first, second)
        })
    }
    #[inline(always)]
    fn widen_f16(self, x: &[u16; LANES]) -> F32x16 {
        intrinsic!(F32x16(
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
        ))
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> F32x16 {
        intrinsic!({
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            let first = _mm256_cvtepi8_epi32(bytes);
            F32x16(_mm256_cvtepi32_ps(first), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))))
        })
    }
    #[inline(always)]
    fn widen_small_e4m3(self, x: &[u8; LANES]) -> F32x16 {
        intrinsic!({
            // The shift leaves the sign in two bits.
            let wide = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(x.as_ptr().cast())));
            let halves = _mm256_and_si256(wide, _mm256_set1_epi16(!0x407F));
            F32x16(
                _mm256_cvtph_ps(_mm256_castsi256_si128(halves)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves)),
            )
        })
    }
    #[inline(always)]
    fn look_up_halves(self, table: &[f32; LANES], x: &[u8; LANES]) -> [F32x16; 2] {
        intrinsic!({
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            let first = _mm256_cvtepu8_epi32(bytes);
            let second = _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes));
            let (low, high) = (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8)));
            [
                F32x16(select(low, high, first), select(low, high, second)),
                F32x16(
                    select(low, high, _mm256_srli_epi32::<4>(first)),
                    select(low, high, _mm256_srli_epi32::<4>(second)),
                ),
            ]
        })
    }
}
