//! Sixteen f32 lanes on every instruction set, so that each kernel is written once.
//!
//! A value of a type that implements [`Simd`] proves that this machine has its instructions. Only [`dispatch`] makes
//! such values, from a [`Context`], whose instruction set was checked. That makes the methods safe. All sets do the
//! same operations in the same order (fused multiply-add everywhere), so a kernel's results do not depend on the set
//! that runs it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod int8;
pub(crate) mod map;
pub(crate) mod math;
mod portable;
#[cfg(test)]
mod tests;

use crate::context::Context;
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use int8::Int8Kernel;
pub(crate) use portable::Portable;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Factor between a number of eight bits and the f16 with the same bits.
pub(crate) const E4M3_FACTOR: f32 = 256.0;

/// Returns the number of eight bits that has four bits of exponent and three of mantissa. The bits are not those of a NaN.
pub(crate) fn decode_e4m3(bits: u8) -> f32 {
    decode_small_e4m3(bits) * E4M3_FACTOR
}

/// Returns a number of eight bits over [`E4M3_FACTOR`].
fn decode_small_e4m3(bits: u8) -> f32 {
    half::f16::from_bits(u16::from(bits & 0x80) << 8 | u16::from(bits & 0x7F) << 7).to_f32()
}

/// Operations on sixteen f32 lanes.
pub(crate) trait Simd: Copy {
    /// Vector of sixteen f32.
    type V: Copy;
    /// Number of sums that the inner loop of a product keeps in registers.
    const ACCUMULATORS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn store(self, x: Self::V, to: &mut [f32; LANES]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns the greater of each pair of lanes; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns the lesser of each pair of lanes; `b` if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Computes `a · b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Rounds to the nearest integer, ties to even.
    fn round(self, x: Self::V) -> Self::V;
    /// Computes `2^x` for whole numbers in -126..=127.
    fn exp2_int(self, x: Self::V) -> Self::V;
    /// Widens two vectors of bf16: the low and the high half of each lane.
    fn bf16_pairs(self, x: &[u32; LANES]) -> [Self::V; 2];
    fn widen_bf16(self, x: &[u16; LANES]) -> Self::V;
    fn widen_f16(self, x: &[u16; LANES]) -> Self::V;
    /// Widens signed bytes.
    fn widen_i8(self, x: &[u8; LANES]) -> Self::V;
    /// Widens numbers of eight bits with four bits of exponent and three of mantissa (E4M3, OCP 8-bit Floating Point
    /// Specification 1.0), and divides them by [`E4M3_FACTOR`]. No byte is a NaN.
    fn widen_small_e4m3(self, x: &[u8; LANES]) -> Self::V;
    /// Returns the numbers of `table` at the low halves of the bytes, and those at the high halves.
    fn look_up_halves(self, table: &[f32; LANES], x: &[u8; LANES]) -> [Self::V; 2];

    /// Prefetches the cache line `bytes` after `from`; never faults.
    #[inline(always)]
    fn prefetch<T>(self, from: &T, bytes: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let address = std::ptr::from_ref(from).cast::<i8>().wrapping_add(bytes);
            // SAFETY: a prefetch is a hint; an address outside any mapping is ignored.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (from, bytes);
    }

    /// Returns the sum of the lanes, always added by the same tree.
    #[inline(always)]
    fn sum(self, x: Self::V) -> f32 {
        self.reduce(x, |a, b| a + b)
    }

    /// Returns the greatest lane.
    #[inline(always)]
    fn max_lane(self, x: Self::V) -> f32 {
        self.reduce(x, f32::max)
    }

    #[inline(always)]
    fn reduce(self, x: Self::V, join: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(x, &mut lanes);
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] = join(lanes[i], lanes[i + width]);
            }
            width /= 2;
        }
        lanes[0]
    }
}

/// Work that is written over any instruction set.
///
/// `run` and everything that its inner loops call must be `#[inline(always)]`, or the compiler builds them without the
/// instructions. A closure (in `array::map`, for example) cannot be marked so, therefore inner loops have none.
pub(crate) trait Kernel {
    fn run<S: Simd>(self, s: S);
}

/// Runs `kernel` with the context's instruction set.
pub(crate) fn dispatch(ctx: &Context, kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    match ctx.isa() {
        // SAFETY: a context holds only instruction sets that this machine has (`Isa::is_available`).
        Isa::Avx512 => return unsafe { avx512::run(kernel) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { avx2::run(kernel) },
        Isa::Portable => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ctx;
    kernel.run(Portable);
}

/// Runs `kernel` with the context's instruction set, or with the next plainer one that has byte products.
pub(crate) fn dispatch_int8(ctx: &Context, kernel: impl Int8Kernel) {
    #[cfg(target_arch = "x86_64")]
    match ctx.isa() {
        Isa::Avx512 if is_x86_feature_detected!("avx512vnni") => {
            // SAFETY: a context holds only instruction sets that this machine has, and VNNI was just detected.
            return unsafe { avx512::vnni::run(kernel) };
        }
        // SAFETY: as above; a machine with AVX-512 in its context has AVX2.
        Isa::Avx512 | Isa::Avx2 => return unsafe { avx2::int8::run(kernel) },
        Isa::Portable => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ctx;
    kernel.run(Portable);
}
