//! Tokens that an answer may have, beside its grammar: a set of allowed tokens, and sequences of tokens that may not come.

use lockstep_schedule::plan::TokenMask;

/// Rules about the tokens of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRules {
    vocab_size: u32,
    /// Tokens that the answer may have. `None` if it may have any.
    allowed: Option<TokenMask>,
    /// Sequences that the answer may not contain, none of them empty.
    banned: Vec<Vec<u32>>,
    /// The answer's last tokens, fewer than the longest banned sequence has.
    last: Vec<u32>,
}

impl TokenRules {
    /// Makes the rules. All ids are in the vocabulary.
    pub(crate) fn new(vocab_size: u32, allowed: Option<&[u32]>, banned: Vec<Vec<u32>>) -> Self {
        let mask = |ids: &[u32]| {
            let mut words = vec![0; TokenMask::num_words(vocab_size as usize)];
            ids.iter().for_each(|id| set(&mut words, *id, true));
            TokenMask::new(words)
        };
        Self { vocab_size, allowed: allowed.map(mask), banned, last: Vec::new() }
    }

    /// Returns the tokens of `mask` that may come next. `None` stands for all tokens.
    pub(super) fn restrict(&self, mask: Option<TokenMask>) -> Option<TokenMask> {
        let ends = |banned: &&Vec<u32>| self.last.ends_with(&banned[..banned.len() - 1]);
        let mut banned = self.banned.iter().filter(ends).filter_map(|banned| banned.last()).peekable();
        if banned.peek().is_none() && (mask.is_none() || self.allowed.is_none()) {
            return mask.or_else(|| self.allowed.clone());
        }
        let mut words = match (mask, &self.allowed) {
            (Some(mask), Some(allowed)) => mask.words().iter().zip(allowed.words()).map(|(a, b)| a & b).collect(),
            (Some(mask), None) => mask.words().to_vec(),
            (None, Some(allowed)) => allowed.words().to_vec(),
            (None, None) => self.all(),
        };
        banned.for_each(|id| set(&mut words, *id, false));
        Some(TokenMask::new(words))
    }

    /// Takes the next token of the answer.
    pub(super) fn advance(&mut self, token: u32) {
        let longest = self.banned.iter().map(Vec::len).max().unwrap_or(0);
        self.last.push(token);
        let surplus = self.last.len().saturating_sub(longest.saturating_sub(1));
        self.last.drain(..surplus);
    }

    fn all(&self) -> Vec<u32> {
        let mut words = vec![u32::MAX; TokenMask::num_words(self.vocab_size as usize)];
        (self.vocab_size..words.len() as u32 * u32::BITS).for_each(|id| set(&mut words, id, false));
        words
    }
}

fn set(words: &mut [u32], id: u32, is_allowed: bool) {
    if let Some(word) = words.get_mut((id / u32::BITS) as usize) {
        let bit = 1 << (id % u32::BITS);
        *word = if is_allowed { *word | bit } else { *word & !bit };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the tokens that may come after `tokens`, of a vocabulary of 40.
    fn next(allowed: Option<&[u32]>, banned: &[&[u32]], tokens: &[u32], mask: Option<&[u32]>) -> Option<Vec<u32>> {
        let mut rules = TokenRules::new(40, allowed, banned.iter().map(|ids| ids.to_vec()).collect());
        tokens.iter().for_each(|id| rules.advance(*id));
        let mask = mask.map(|ids| TokenRules::new(40, Some(ids), vec![]).allowed.unwrap());
        rules.restrict(mask).map(|mask| (0..64).filter(|id| mask.contains(*id)).collect())
    }

    #[test]
    fn tokens_are_allowed_and_banned() {
        let but = |banned: u32| Some((0..40).filter(|id| *id != banned).collect::<Vec<u32>>());
        assert_eq!(next(None, &[&[1, 2]], &[], None), None);
        assert_eq!(next(None, &[&[1, 2]], &[5, 1], None), but(2));
        assert_eq!(next(None, &[&[1, 2]], &[1, 5], None), None);
        assert_eq!(next(None, &[&[39]], &[], None), but(39));
        assert_eq!(next(None, &[&[1, 1, 2], &[1, 3]], &[1, 1], Some(&[2, 3, 4])), Some(vec![4]));
        assert_eq!(next(Some(&[3, 33]), &[], &[7], None), Some(vec![3, 33]));
        assert_eq!(next(Some(&[3, 33]), &[&[7, 3]], &[7], Some(&[3, 33, 34])), Some(vec![33]));
        assert_eq!(next(Some(&[3]), &[&[3]], &[], None), Some(vec![]));
    }
}
