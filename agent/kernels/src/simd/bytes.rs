//! Products of quantized bytes on every instruction set: sixteen lanes of four bytes, added up in integers.
//!
//! Integer sums are exact, so all sets give the same ones. A value of a type that implements [`Bytes`]
//! proves that this machine has its instructions, as with [`Simd`].

use super::portable::Portable;
use super::{LANES, Simd};
use crate::context::Context;
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;

/// Bytes of a vector: four consecutive k's of sixteen rows.
pub(crate) const BYTES: usize = 4 * LANES;

/// Operations on sixteen lanes of four bytes.
pub(crate) trait Bytes: Copy {
    /// The set's own floating point.
    type Float: Simd;
    /// 64 bytes.
    type B: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// What [`Bytes::dot_signed`] adds to each weight: the sum is too large by this times the sum of
    /// the x's.
    const SIGNED_OFFSET: i32;

    fn float(self) -> Self::Float;
    fn load(self, x: &[u8; BYTES]) -> Self::B;
    fn and(self, x: Self::B, mask: u8) -> Self::B;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// To the right, by less than 8, in pairs of bytes: the upper bits must be masked off.
    fn shift_right(self, x: Self::B, bits: i32) -> Self::B;
    /// To the left, by less than 8, of bytes that have room for it.
    fn shift_left(self, x: Self::B, bits: i32) -> Self::B;
    fn splat(self, x: i32) -> Self::I;
    /// To each lane of `sum` its four weights (0..=63) times the four signed bytes of `x`, least significant first.
    fn dot(self, sum: Self::I, weights: Self::B, x: i32) -> Self::I;
    /// As [`Bytes::dot`] with signed weights, each too large by `SIGNED_OFFSET`. No byte of `x` is -128.
    fn dot_signed(self, sum: Self::I, weights: Self::B, x: i32) -> Self::I;
    fn widen(self, x: Self::I) -> <Self::Float as Simd>::V;
    fn widen_u8(self, x: &[u8; LANES]) -> <Self::Float as Simd>::V;
    fn widen_i8(self, x: &[u8; LANES]) -> <Self::Float as Simd>::V;
}

/// As [`super::Kernel`], over bytes; the same rules hold.
pub(crate) trait BytesKernel {
    fn run<S: Bytes>(self, s: S);
}

/// Runs `kernel` with the context's instruction set, or the next plainer one that has byte products.
pub(crate) fn dispatch_bytes(ctx: &Context, kernel: impl BytesKernel) {
    #[cfg(target_arch = "x86_64")]
    match ctx.isa() {
        Isa::Avx512 if is_x86_feature_detected!("avx512vnni") => {
            // SAFETY: a context holds only instruction sets that this machine has, and it has VNNI.
            return unsafe { super::avx512::vnni::run(kernel) };
        }
        // SAFETY: as above; AVX-512 as a context means it includes AVX2.
        Isa::Avx512 | Isa::Avx2 => return unsafe { super::avx2::bytes::run(kernel) },
        Isa::Portable => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ctx;
    kernel.run(PLAIN);
}

/// The set that runs anywhere.
pub(crate) const PLAIN: Portable = Portable;

impl Bytes for Portable {
    type Float = Portable;
    type B = [u8; BYTES];
    type I = [i32; LANES];
    const SIGNED_OFFSET: i32 = 0;

    #[inline(always)]
    fn float(self) -> Portable {
        self
    }
    #[inline(always)]
    fn load(self, x: &[u8; BYTES]) -> [u8; BYTES] {
        *x
    }
    #[inline(always)]
    fn and(self, x: [u8; BYTES], mask: u8) -> [u8; BYTES] {
        x.map(|byte| byte & mask)
    }
    #[inline(always)]
    fn or(self, a: [u8; BYTES], b: [u8; BYTES]) -> [u8; BYTES] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn shift_right(self, x: [u8; BYTES], bits: i32) -> [u8; BYTES] {
        x.map(|byte| byte >> bits)
    }
    #[inline(always)]
    fn shift_left(self, x: [u8; BYTES], bits: i32) -> [u8; BYTES] {
        x.map(|byte| byte << bits)
    }
    #[inline(always)]
    fn splat(self, x: i32) -> [i32; LANES] {
        [x; LANES]
    }
    #[inline(always)]
    fn dot(self, mut sum: [i32; LANES], weights: [u8; BYTES], x: i32) -> [i32; LANES] {
        let x = x.to_le_bytes();
        for lane in 0..LANES {
            for i in 0..4 {
                sum[lane] += i32::from(weights[4 * lane + i]) * i32::from(x[i].cast_signed());
            }
        }
        sum
    }
    #[inline(always)]
    fn dot_signed(self, mut sum: [i32; LANES], weights: [u8; BYTES], x: i32) -> [i32; LANES] {
        let x = x.to_le_bytes();
        for lane in 0..LANES {
            for i in 0..4 {
                sum[lane] += i32::from(weights[4 * lane + i].cast_signed()) * i32::from(x[i].cast_signed());
            }
        }
        sum
    }
    #[inline(always)]
    fn widen(self, x: [i32; LANES]) -> [f32; LANES] {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; LANES]) -> [f32; LANES] {
        x.map(f32::from)
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> [f32; LANES] {
        x.map(|x| f32::from(x.cast_signed()))
    }
}
