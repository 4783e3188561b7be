//! Integer products of bytes with AVX-512 VNNI: one instruction multiplies four bytes a lane and adds them.

use std::arch::x86_64::*;

use super::Avx512;
use crate::simd::LANES;
use crate::simd::int8::{Int8Kernel, Int8Simd, VECTOR_BYTES};

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

impl Int8Simd for Vnni {
    type Float = Avx512;
    type B = __m512i;
    type I = __m512i;
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
    fn splat(self, x: i32) -> __m512i {
        intrinsic!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn dot(self, sum: __m512i, weights: __m512i, x: i32) -> __m512i {
        intrinsic!(_mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(x)))
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
