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

/// Most parts of a table that are looked up by permutations.
const MAX_PARTS: usize = 16;

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
    fn reflect(self, sum: u8, x: __m512i, chosen: &[u8; VECTOR_BYTES / 8]) -> __m512i {
        intrinsic!(_mm512_mask_sub_epi8(x, u64::from_le_bytes(*chosen), _mm512_set1_epi8(sum.cast_signed()), x))
    }
    #[inline(always)]
    fn spread_pairs(self, words: &[u16; LANES]) -> (__m512i, __m512i) {
        intrinsic!({
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(words.as_ptr().cast()));
            // A byte with the numbers 0 to 3 stays, and one with the numbers 2 and 3 is put two bytes above.
            let high = _mm512_and_si512(_mm512_slli_epi32::<12>(words), _mm512_set1_epi32(0x0F0F_0000));
            let both = _mm512_or_si512(words, high);
            let first = _mm512_shuffle_epi8(both, quarters(0x0202_0000));
            let second = _mm512_shuffle_epi8(both, quarters(0x0303_0101));
            let mask = _mm512_set1_epi16(0x0C03);
            (_mm512_and_si512(first, mask), _mm512_and_si512(second, mask))
        })
    }
    #[inline(always)]
    fn spread_nibbles(self, words: &[u16; LANES]) -> __m512i {
        intrinsic!({
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(words.as_ptr().cast()));
            let pairs = _mm512_shuffle_epi8(words, quarters(0x0101_0000));
            let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), _mm512_set1_epi16(0x0F00));
            _mm512_or_si512(_mm512_and_si512(pairs, _mm512_set1_epi16(0x000F)), odd)
        })
    }
    /// Permutes parts of 64 words, and chooses among up to sixteen results by the upper bits of the indices. Larger tables are
    /// looked up one by one.
    #[inline(always)]
    fn look_up_words<const N: usize>(self, table: &[u16; N], indices: &[u16; 2 * LANES]) -> [u16; 2 * LANES] {
        let (parts, mut words) = (table.as_chunks::<64>().0, [0; 2 * LANES]);
        if parts.len() > MAX_PARTS || !parts.len().is_power_of_two() {
            for i in 0..2 * LANES {
                words[i] = table[usize::from(indices[i]) % N];
            }
            return words;
        }
        intrinsic!({
            let indices = _mm512_loadu_si512(indices.as_ptr().cast());
            let mut found = [indices; MAX_PARTS];
            for (found, part) in found.iter_mut().zip(parts) {
                let halves = part.as_ptr();
                let (low, high) = (_mm512_loadu_si512(halves.cast()), _mm512_loadu_si512(halves.add(32).cast()));
                *found = _mm512_permutex2var_epi16(low, indices, high);
            }
            let (mut count, mut bit) = (parts.len(), 64);
            while count > 1 {
                count /= 2;
                let is_odd = _mm512_test_epi16_mask(indices, _mm512_set1_epi16(bit));
                for i in 0..count {
                    found[i] = _mm512_mask_mov_epi16(found[2 * i], is_odd, found[2 * i + 1]);
                }
                bit *= 2;
            }
            _mm512_storeu_si512(words.as_mut_ptr().cast(), found[0]);
        });
        words
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
