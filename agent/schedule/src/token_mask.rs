//! The set of tokens that a grammar allows next. The head computes it and sends it to the ranks.

use std::sync::Arc;

/// Set of token ids as bits: id `i` is bit `i % 32` of word `i / 32`. A clone shares the words.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenMask(Arc<[u32]>);

impl TokenMask {
    /// Makes a mask from its words.
    pub fn new(words: Vec<u32>) -> Self {
        Self(words.into())
    }

    /// Returns how many words a mask over a vocabulary has.
    pub fn num_words(vocab_size: usize) -> usize {
        vocab_size.div_ceil(u32::BITS as usize)
    }

    pub fn words(&self) -> &[u32] {
        &self.0
    }

    /// Returns true if the mask allows `id`. Ids beyond the mask's end are not allowed.
    pub fn contains(&self, id: u32) -> bool {
        self.0.get((id / u32::BITS) as usize).is_some_and(|word| word >> (id % u32::BITS) & 1 == 1)
    }

    /// Returns true if the mask allows no token.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

impl std::fmt::Debug for TokenMask {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set: u32 = self.0.iter().map(|word| word.count_ones()).sum();
        write!(formatter, "TokenMask({set} of {})", self.0.len() * u32::BITS as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_ids() {
        let mask = TokenMask::new(vec![1 << 31, 0b101]);
        let ids: Vec<u32> = (0..100).filter(|id| mask.contains(*id)).collect();
        assert_eq!(ids, [31, 32, 34]);
        assert_eq!((TokenMask::num_words(64), TokenMask::num_words(65)), (2, 3));
        assert!(TokenMask::new(vec![0]).is_empty() && !mask.is_empty());
        assert_eq!(format!("{mask:?}"), "TokenMask(3 of 64)");
    }
}
