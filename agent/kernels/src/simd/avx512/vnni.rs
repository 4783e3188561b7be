//! Products of bytes with AVX-512 VNNI: fours in one instruction.

use super::Avx512;
use crate::simd::LANES;
use crate::simd::bytes::{BYTES, Bytes, BytesKernel};
use std::arch::x86_64::*;

/// Proof of AVX-512 with VNNI; made in [`run`] alone.
#[derive(Clone, Copy)]
pub(crate) struct Vnni(Avx512);

/// Runs `kernel` compiled for AVX-512 with VNNI.
///
/// # Safety
/// The machine must have these features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::simd) unsafe fn run(kernel: impl BytesKernel) {
    kernel.run(Vnni(Avx512(())));
}

/// States once why calling an instruction of this set is sound.
macro_rules! have {
    ($call:expr) => {
        // SAFETY: a value of `Vnni` exists, so the machine has the instruction; memory operands are
        // references to as many bytes as are read, without alignment.
        unsafe { $call }
    };
}

impl Bytes for Vnni {
    type Float = Avx512;
    type B = __m512i;
    type I = __m512i;
    /// The instruction takes weights without a sign: 128 is added by turning the sign bit over.
    const SIGNED_OFFSET: i32 = 128;

    #[inline(always)]
    fn float(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    fn load(self, x: &[u8; BYTES]) -> __m512i {
        have!(_mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn and(self, x: __m512i, mask: u8) -> __m512i {
        have!(_mm512_and_si512(x, _mm512_set1_epi8(mask.cast_signed())))
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        have!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn shift_right(self, x: __m512i, bits: i32) -> __m512i {
        have!(_mm512_srl_epi16(x, _mm_cvtsi32_si128(bits)))
    }
    #[inline(always)]
    fn shift_left(self, x: __m512i, bits: i32) -> __m512i {
        have!(_mm512_sll_epi16(x, _mm_cvtsi32_si128(bits)))
    }
    #[inline(always)]
    fn splat(self, x: i32) -> __m512i {
        have!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn dot(self, sum: __m512i, weights: __m512i, x: i32) -> __m512i {
        have!(_mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(x)))
    }
    #[inline(always)]
    fn dot_signed(self, sum: __m512i, weights: __m512i, x: i32) -> __m512i {
        have!({
            let raised = _mm512_xor_si512(weights, _mm512_set1_epi8(-128));
            _mm512_dpbusd_epi32(sum, raised, _mm512_set1_epi32(x))
        })
    }
    #[inline(always)]
    fn widen(self, x: __m512i) -> __m512 {
        have!(_mm512_cvtepi32_ps(x))
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; LANES]) -> __m512 {
        have!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> __m512 {
        have!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))))
    }
}
