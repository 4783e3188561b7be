//! Integer products of bytes in plain Rust.

use super::Portable;
use crate::simd::LANES;
use crate::simd::int8::{EightPoints, FourPoints, Indices, Int8Simd, VECTOR_BYTES};

impl Int8Simd for Portable {
    type Float = Portable;
    type B = [u8; VECTOR_BYTES];
    type I = [i32; LANES];
    const SIGNED_OFFSET: i32 = 0;

    #[inline(always)]
    fn float(self) -> Portable {
        self
    }
    #[inline(always)]
    fn load(self, x: &[u8; VECTOR_BYTES]) -> [u8; VECTOR_BYTES] {
        *x
    }
    #[inline(always)]
    fn and(self, x: [u8; VECTOR_BYTES], mask: u8) -> [u8; VECTOR_BYTES] {
        x.map(|byte| byte & mask)
    }
    #[inline(always)]
    fn or(self, a: [u8; VECTOR_BYTES], b: [u8; VECTOR_BYTES]) -> [u8; VECTOR_BYTES] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn shift_right(self, x: [u8; VECTOR_BYTES], bits: i32) -> [u8; VECTOR_BYTES] {
        x.map(|byte| byte >> bits)
    }
    #[inline(always)]
    fn shift_left(self, x: [u8; VECTOR_BYTES], bits: i32) -> [u8; VECTOR_BYTES] {
        x.map(|byte| byte << bits)
    }
    #[inline(always)]
    fn look_up(self, table: &[i8; 16], x: [u8; VECTOR_BYTES]) -> [u8; VECTOR_BYTES] {
        x.map(|byte| table[usize::from(byte & 0x0F)].cast_unsigned())
    }
    #[inline(always)]
    fn reflect(self, sum: u8, x: [u8; VECTOR_BYTES], chosen: &[u8; VECTOR_BYTES / 8]) -> [u8; VECTOR_BYTES] {
        std::array::from_fn(|i| if chosen[i / 8] >> (i % 8) & 1 == 1 { sum.wrapping_sub(x[i]) } else { x[i] })
    }
    #[inline(always)]
    fn look_up_eights<const N: usize>(
        self,
        points: &EightPoints<N>,
        indices: &Indices,
    ) -> [[[u8; VECTOR_BYTES]; 2]; 2] {
        let mut found = [[[0; VECTOR_BYTES]; 2]; 2];
        for (i, index) in indices.iter().enumerate() {
            let (lane, bytes) = (i % LANES, points.points[usize::from(*index) % N].to_le_bytes());
            for (half, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
                found[i / LANES][half][4 * lane..4 * lane + 4].copy_from_slice(bytes);
            }
        }
        found
    }
    #[inline(always)]
    fn look_up_fours<const N: usize>(self, points: &FourPoints<N>, indices: &Indices) -> [[u8; VECTOR_BYTES]; 2] {
        let mut found = [[0; VECTOR_BYTES]; 2];
        for (to, index) in found.as_flattened_mut().as_chunks_mut::<4>().0.iter_mut().zip(indices) {
            *to = points.points[usize::from(*index) % N].to_le_bytes();
        }
        found
    }
    #[inline(always)]
    fn store(self, x: [u8; VECTOR_BYTES], to: &mut [u8; VECTOR_BYTES]) {
        *to = x;
    }
    #[inline(always)]
    fn splat(self, x: i32) -> [i32; LANES] {
        [x; LANES]
    }
    #[inline(always)]
    fn dot(self, mut sum: [i32; LANES], weights: [u8; VECTOR_BYTES], x: i32) -> [i32; LANES] {
        let x = x.to_le_bytes();
        for lane in 0..LANES {
            for i in 0..4 {
                sum[lane] += i32::from(weights[4 * lane + i]) * i32::from(x[i].cast_signed());
            }
        }
        sum
    }
    #[inline(always)]
    fn dot_signed(self, mut sum: [i32; LANES], weights: [u8; VECTOR_BYTES], x: i32) -> [i32; LANES] {
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
}
