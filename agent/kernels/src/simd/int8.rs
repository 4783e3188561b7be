//! Integer products of quantized bytes on every instruction set: sixteen lanes of four bytes, added up in i32.
//!
//! Integer sums are exact, so all sets give the same ones. A value of a type that implements [`Int8Simd`] proves that
//! this machine has its instructions, as with [`Simd`].

use super::{LANES, Simd};

/// Bytes of a vector: four consecutive k's of sixteen rows.
pub(crate) const VECTOR_BYTES: usize = 4 * LANES;

/// Points of eight bytes each, in the forms that instruction sets look them up in.
pub(crate) struct EightPoints<const N: usize> {
    /// Codes of two bits for each byte, the first byte's lowest.
    pub(crate) codes: [u16; N],
    /// Bytes by code. The code of an odd byte is four times as large.
    pub(crate) bytes: [i8; 16],
    /// The bytes themselves, the first lowest.
    pub(crate) points: [u64; N],
}

/// Points of four bytes each, in the forms that instruction sets look them up in.
pub(crate) struct FourPoints<const N: usize> {
    /// Codes of four bits for each byte, the first byte's lowest.
    pub(crate) codes: [u16; N],
    /// Bytes by code.
    pub(crate) bytes: [i8; 16],
    /// The bytes themselves, the first lowest.
    pub(crate) points: [u32; N],
}

/// Indices of points that are looked up at once: two for each lane.
pub(crate) type Indices = [u16; 2 * LANES];

/// Operations on sixteen lanes of four bytes.
pub(crate) trait Int8Simd: Copy {
    /// Floating-point operations of the same instruction set.
    type Float: Simd;
    /// Vector of 64 bytes.
    type B: Copy;
    /// Vector of sixteen i32.
    type I: Copy;
    /// Number that [`Int8Simd::dot_signed`] adds to each weight. The sum is too large by this number times the sum of
    /// the x's.
    const SIGNED_OFFSET: i32;

    fn float(self) -> Self::Float;
    fn load(self, x: &[u8; VECTOR_BYTES]) -> Self::B;
    fn and(self, x: Self::B, mask: u8) -> Self::B;
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Shifts right by less than 8 bits, in pairs of bytes. The caller must mask off the upper bits.
    fn shift_right(self, x: Self::B, bits: i32) -> Self::B;
    /// Shifts left by less than 8 bits. The bytes must have room for the bits.
    fn shift_left(self, x: Self::B, bits: i32) -> Self::B;
    /// Replaces each byte, which is below 16, by the number of `table` at its index.
    fn look_up(self, table: &[i8; 16], x: Self::B) -> Self::B;
    /// Replaces each byte whose bit in `chosen` is set by `sum` minus the byte. The bits of eight bytes are in one byte of
    /// `chosen`, the first byte's lowest.
    fn reflect(self, sum: u8, x: Self::B, chosen: &[u8; VECTOR_BYTES / 8]) -> Self::B;
    /// Looks up two points of eight bytes for each lane, whose indices are below N. The result of a point is a vector of the
    /// first four bytes of all lanes, and one of the others.
    fn look_up_eights<const N: usize>(self, points: &EightPoints<N>, indices: &Indices) -> [[Self::B; 2]; 2];
    /// Looks up two points of four bytes for each lane, whose indices are below N.
    fn look_up_fours<const N: usize>(self, points: &FourPoints<N>, indices: &Indices) -> [Self::B; 2];
    fn store(self, x: Self::B, to: &mut [u8; VECTOR_BYTES]);
    fn splat(self, x: i32) -> Self::I;
    /// Adds to each lane of `sum` the products of its four weights (0..=127) and the four signed bytes of `x`, least
    /// significant first.
    fn dot(self, sum: Self::I, weights: Self::B, x: i32) -> Self::I;
    /// Does the same as [`Int8Simd::dot`] with signed weights. Each weight counts as too large by `SIGNED_OFFSET`. No byte
    /// of `x` is -128.
    fn dot_signed(self, sum: Self::I, weights: Self::B, x: i32) -> Self::I;
    fn widen(self, x: Self::I) -> <Self::Float as Simd>::V;
    fn widen_u8(self, x: &[u8; LANES]) -> <Self::Float as Simd>::V;
}

/// Work that is written over any [`Int8Simd`]. The rules of [`super::Kernel`] hold.
pub(crate) trait Int8Kernel {
    fn run<S: Int8Simd>(self, s: S);
}
