//! Sixteen lanes in one AVX-512 register.

pub(super) mod vnni;

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// Proof that the machine has AVX-512 F, BW, VL and DQ. Only [`run`] makes it.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// Runs `kernel` compiled for AVX-512.
///
/// # Safety
/// The machine must have AVX-512 F, BW, VL and DQ, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) unsafe fn run(kernel: impl Kernel) {
    kernel.run(Avx512(()));
}

/// Wraps an intrinsic and states once why the call is sound.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: a value of `Avx512` exists, so the machine has the instruction. Memory operands are references to
        // whole vectors, which are read or written with unaligned instructions.
        unsafe { $call }
    };
}

impl Simd for Avx512 {
    type V = __m512;
    const ACCUMULATORS: usize = 24;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        intrinsic!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        intrinsic!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, x: __m512, to: &mut [f32; LANES]) {
        intrinsic!(_mm512_storeu_ps(to.as_mut_ptr(), x))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        intrinsic!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x))
    }
    #[inline(always)]
    fn exp2_int(self, x: __m512) -> __m512 {
        intrinsic!({
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        })
    }
    #[inline(always)]
    fn bf16_pairs(self, x: &[u32; LANES]) -> [__m512; 2] {
        intrinsic!({
            let both = _mm512_loadu_si512(x.as_ptr().cast());
            let high = _mm512_and_si512(both, _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(both)), _mm512_castsi512_ps(high)]
        })
    }
    #[inline(always)]
    fn widen_bf16(self, x: &[u16; LANES]) -> __m512 {
        intrinsic!({
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }
    #[inline(always)]
    fn widen_f16(self, x: &[u16; LANES]) -> __m512 {
        intrinsic!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> __m512 {
        intrinsic!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }
    #[inline(always)]
    fn widen_small_e4m3(self, x: &[u8; LANES]) -> __m512 {
        intrinsic!({
            // The shift leaves the sign in two bits.
            let wide = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(x.as_ptr().cast())));
            let halves = _mm256_and_si256(wide, _mm256_set1_epi16(!0x407F));
            _mm512_cvtph_ps(halves)
        })
    }
    #[inline(always)]
    fn look_up_halves(self, table: &[f32; LANES], x: &[u8; LANES]) -> [__m512; 2] {
        intrinsic!({
            // The permutation reads the low four bits of an index.
            let (table, low) =
                (_mm512_loadu_ps(table.as_ptr()), _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast())));
            [_mm512_permutexvar_ps(low, table), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(low), table)]
        })
    }
}
