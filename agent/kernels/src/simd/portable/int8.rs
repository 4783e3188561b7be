//! Integer products of bytes in plain Rust.

use super::Portable;
use crate::simd::LANES;
use crate::simd::int8::{EightPoints, FourPoints, Indices, Int8Simd, PointIndex, VECTOR_BYTES};

/// Adds the products of a point and eight bytes of `x` to the sum of each row.
#[inline(always)]
fn add_points(sums: &mut [i32; LANES], points: &[[u8; 8]; LANES], signs: Option<&[u8; LANES]>, x: &[i32; 2]) {
    let x = [x[0].to_le_bytes(), x[1].to_le_bytes()];
    for lane in 0..LANES {
        for (column, (size, x)) in points[lane].iter().zip(x.as_flattened()).enumerate() {
            let product = i32::from(*size) * i32::from(x.cast_signed());
            let is_negative = signs.is_some_and(|signs| signs[lane] >> column & 1 == 1);
            sums[lane] += if is_negative { -product } else { product };
        }
    }
}

impl Int8Simd for Portable {
    type Float = Portable;
    type B = [u8; VECTOR_BYTES];
    type I = [i32; LANES];
    type Shorts = [i32; LANES];
    const HAS_SHORTS: bool = false;
    type Partial = [i32; LANES];
    const LOADS_FOURS: bool = true;
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
    fn no_sums(self) -> [i32; LANES] {
        [0; LANES]
    }
    #[inline(always)]
    fn add_eights<I: PointIndex<N>, const N: usize>(
        self,
        mut sums: [i32; LANES],
        points: &[u64; N],
        indices: &[[I; LANES]; 2],
        signs: Option<&[[u8; LANES]; 2]>,
        x: &[[i32; 2]; 2],
    ) -> [i32; LANES] {
        for (eight, indices) in indices.iter().enumerate() {
            let found = indices.map(|index| index.find(points).to_le_bytes());
            add_points(&mut sums, &found, signs.map(|signs| &signs[eight]), &x[eight]);
        }
        sums
    }
    #[inline(always)]
    fn add_fours<I: PointIndex<N>, const N: usize>(
        self,
        mut sums: [i32; LANES],
        points: &[u32; N],
        indices: &[[[I; LANES]; 2]; 2],
        signs: &[[u8; LANES]; 2],
        x: &[[i32; 2]; 2],
    ) -> [i32; LANES] {
        for (eight, [first, second]) in indices.iter().enumerate() {
            let point = |index: I| u64::from(index.find(points));
            let found = std::array::from_fn(|lane| (point(first[lane]) | point(second[lane]) << 32).to_le_bytes());
            add_points(&mut sums, &found, Some(&signs[eight]), &x[eight]);
        }
        sums
    }
    #[inline(always)]
    fn finish_sums(self, sums: [i32; LANES], more: &[i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|lane| sums[lane] + more[lane])
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
    fn no_shorts(self) -> [i32; LANES] {
        [0; LANES]
    }
    #[inline(always)]
    fn dot_short(self, sum: [i32; LANES], weights: [u8; VECTOR_BYTES], x: i32) -> [i32; LANES] {
        self.dot(sum, weights, x)
    }
    #[inline(always)]
    fn add_shorts(self, sum: [i32; LANES], shorts: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|lane| sum[lane] + shorts[lane])
    }
    #[inline(always)]
    fn take_digits(self, x: [u8; VECTOR_BYTES]) -> [[u8; VECTOR_BYTES]; 2] {
        // Three times a fraction has the digit above its eight bits.
        let tripled = x.map(|byte| 3 * u16::from(byte ^ 0x80));
        [tripled.map(|tripled| (tripled >> 8) as u8), tripled.map(|tripled| tripled as u8 ^ 0x80)]
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
