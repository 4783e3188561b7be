//! Sixteen lanes in plain Rust. They are fast where the compiler has a fused multiply-add to use (aarch64). On x86-64
//! without FMA they call the C library's, which is exact but slow.

mod int8;

use super::{LANES, Simd, decode_small_e4m3};

#[derive(Clone, Copy)]
pub(crate) struct Portable;

type V = [f32; LANES];

#[inline(always)]
fn zip(a: V, b: V, join: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| join(a[i], b[i]))
}

/// Multiplies and adds, rounded once. Not inlined on x86-64, where it is sixteen calls of the C library.
#[cfg_attr(not(target_arch = "x86_64"), inline(always))]
#[cfg_attr(target_arch = "x86_64", inline(never))]
fn fma(a: &V, b: &V, c: &V) -> V {
    std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
}

impl Simd for Portable {
    type V = V;
    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &V) -> V {
        *x
    }
    #[inline(always)]
    fn store(self, x: V, to: &mut V) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        fma(&a, &b, &c)
    }
    #[inline(always)]
    fn round(self, x: V) -> V {
        x.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn exp2_int(self, x: V) -> V {
        x.map(|x| f32::from_bits(((x as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn bf16_pairs(self, x: &[u32; LANES]) -> [V; 2] {
        [x.map(|x| f32::from_bits(x << 16)), x.map(|x| f32::from_bits(x & 0xFFFF_0000))]
    }
    #[inline(always)]
    fn widen_bf16(self, x: &[u16; LANES]) -> V {
        x.map(|x| f32::from_bits(u32::from(x) << 16))
    }
    #[inline(always)]
    fn widen_f16(self, x: &[u16; LANES]) -> V {
        x.map(|x| half::f16::from_bits(x).to_f32())
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8; LANES]) -> V {
        x.map(|x| f32::from(x.cast_signed()))
    }
    #[inline(always)]
    fn widen_small_e4m3(self, x: &[u8; LANES]) -> V {
        x.map(decode_small_e4m3)
    }
    #[inline(always)]
    fn look_up_halves(self, table: &V, x: &[u8; LANES]) -> [V; 2] {
        [x.map(|x| table[usize::from(x & 0x0F)]), x.map(|x| table[usize::from(x >> 4)])]
    }
}
