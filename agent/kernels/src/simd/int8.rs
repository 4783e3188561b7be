//! Integer products of quantized bytes on every instruction set: sixteen lanes of four bytes, added up in i32.
//!
//! Integer sums are exact, so all sets give the same ones. A value of a type that implements [`Int8Simd`] proves that
//! this machine has its instructions, as with [`Simd`].

use super::{LANES, Simd};

/// Bytes of a vector: four consecutive k's of sixteen rows.
pub(crate) const VECTOR_BYTES: usize = 4 * LANES;

/// Greatest weight of [`Int8Simd::dot_short`] if it adds sixteen weights to a lane.
pub(crate) const MAX_SHORT_QUANT: u8 = 31;

/// Bytes of [`Int8Simd::take_digits`] above it have a digit of at least one: three times the fraction is at least 256.
pub(crate) const FIRST_DIGIT: i8 = -43;
/// Bytes above it have the digit two.
pub(crate) const SECOND_DIGIT: i8 = 42;

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

/// Index of a table of N points.
pub(crate) trait PointIndex<const N: usize>: Copy {
    fn find<T: Copy>(self, points: &[T; N]) -> T;
}

impl PointIndex<256> for u8 {
    #[inline(always)]
    fn find<T: Copy>(self, points: &[T; 256]) -> T {
        points[usize::from(self)]
    }
}

/// Index of a table of N points. N is a power of two.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub(crate) struct WideIndex<const N: usize>(u16);

impl<const N: usize> WideIndex<N> {
    /// Takes the low bits of a word.
    #[inline(always)]
    pub(crate) fn new(word: u16) -> Self {
        const { assert!(N.is_power_of_two() && N <= 1 << 16) };
        Self(word & (N - 1) as u16)
    }

    #[inline(always)]
    pub(crate) fn number(self) -> u16 {
        self.0
    }
}

impl<const N: usize> PointIndex<N> for WideIndex<N> {
    #[inline(always)]
    fn find<T: Copy>(self, points: &[T; N]) -> T {
        // SAFETY: `new` makes indices below N only. With a check here, the compiler would take indices to vectors and back.
        unsafe { *points.get_unchecked(usize::from(self.0)) }
    }
}

/// Operations on sixteen lanes of four bytes.
pub(crate) trait Int8Simd: Copy {
    /// Floating-point operations of the same instruction set.
    type Float: Simd;
    /// Vector of 64 bytes.
    type B: Copy;
    /// Vector of sixteen i32.
    type I: Copy;
    /// Sums of a few small products for each lane.
    type Shorts: Copy;
    /// True if products are added up faster as [`Int8Simd::Shorts`].
    const HAS_SHORTS: bool;
    /// Sums of sixteen rows that are not yet added up over the columns.
    type Partial: Copy;
    /// True if points of four bytes are looked up faster one by one, and false if all at once.
    const LOADS_FOURS: bool;
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
    /// Returns sums of zero.
    fn no_sums(self) -> Self::Partial;
    /// Adds to the sum of each row the products of two points of eight bytes and sixteen signed bytes of `x`. Bytes of points
    /// are at most 62, and indices below N. Bit `c` of a row's signs is set if byte `c` of its point is negative.
    fn add_eights<I: PointIndex<N>, const N: usize>(
        self,
        sums: Self::Partial,
        points: &[u64; N],
        indices: &[[I; LANES]; 2],
        signs: Option<&[[u8; LANES]; 2]>,
        x: &[[i32; 2]; 2],
    ) -> Self::Partial;
    /// Does the same as [`Int8Simd::add_eights`] with four points of four bytes.
    fn add_fours<I: PointIndex<N>, const N: usize>(
        self,
        sums: Self::Partial,
        points: &[u32; N],
        indices: &[[[I; LANES]; 2]; 2],
        signs: &[[u8; LANES]; 2],
        x: &[[i32; 2]; 2],
    ) -> Self::Partial;
    /// Returns the sum of each row, with a number added.
    fn finish_sums(self, sums: Self::Partial, more: &[i32; LANES]) -> Self::I;
    fn store(self, x: Self::B, to: &mut [u8; VECTOR_BYTES]);
    fn splat(self, x: i32) -> Self::I;
    /// Adds to each lane of `sum` the products of its four weights (0..=127) and the four signed bytes of `x`, least
    /// significant first.
    fn dot(self, sum: Self::I, weights: Self::B, x: i32) -> Self::I;
    /// Returns sums of zero.
    fn no_shorts(self) -> Self::Shorts;
    /// Does the same as [`Int8Simd::dot`] with small weights: in absolute value, the greatest weight, times the number of weights
    /// of a lane that are added up, times 127 is less than `1 << 16`.
    fn dot_short(self, sum: Self::Shorts, weights: Self::B, x: i32) -> Self::Shorts;
    fn add_shorts(self, sum: Self::I, shorts: Self::Shorts) -> Self::I;
    /// Returns the first digit to base three of each byte, which is a fraction of 256 less 128, and the bytes without it.
    fn take_digits(self, x: Self::B) -> [Self::B; 2];
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
