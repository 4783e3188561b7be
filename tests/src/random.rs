//! Random numbers that a seed repeats.

/// Xorshift; G. Marsaglia, "Xorshift RNGs", 2003.
pub struct Random(u64);

impl Random {
    /// Begins at a place far from those of the seeds beside it: with the mixer of SplitMix64; G. Steele and others,
    /// "Fast Splittable Pseudorandom Number Generators", 2014.
    pub fn new(seed: u64) -> Self {
        let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    /// Returns a number below `bound`, or 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}
