//! Where one answer is in its grammar.

use std::sync::Arc;

use llguidance::Matcher;
use lockstep_schedule::plan::TokenMask;

use super::GrammarError;
use crate::text::Tokenizer;

/// The state of one answer: which tokens may come next. Kept at the head, so that it outlives every group.
#[derive(Clone)]
pub struct Guide {
    matcher: Matcher,
    vocab_size: u32,
    /// Of the tokens so far; a plan that is lost with its group is made again.
    allowed: Option<TokenMask>,
    /// What comes before the grammar counts.
    before: Option<Before>,
}

/// Anything up to a mark.
#[derive(Clone)]
struct Before {
    tokenizer: Arc<Tokenizer>,
    mark: &'static str,
    /// The last bytes, fewer than the mark has.
    last: Vec<u8>,
}

impl Before {
    /// Takes a token. True: the mark is complete.
    fn takes(&mut self, token: u32) -> bool {
        self.last.extend(self.tokenizer.token_bytes(token));
        let mark = self.mark.as_bytes();
        let found = self.last.windows(mark.len()).any(|window| window == mark);
        let keep = self.last.len().min(mark.len() - 1);
        self.last.drain(..self.last.len() - keep);
        found
    }
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Guide").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl Guide {
    /// A fresh matcher.
    ///
    /// # Errors
    /// Nothing can be said in it.
    pub(super) fn new(matcher: Matcher, vocab_size: u32) -> Result<Self, GrammarError> {
        let mut guide = Self { matcher, vocab_size, allowed: None, before: None };
        guide.allowed().map_err(GrammarError::Invalid)?;
        Ok(guide)
    }

    /// Lets anything come before the grammar, up to a mark.
    #[must_use]
    pub fn after(self, mark: &'static str, tokenizer: Arc<Tokenizer>) -> Self {
        Self { before: Some(Before { tokenizer, mark, last: Vec::new() }), ..self }
    }

    /// The tokens that may come next, at least one; the model's end tokens are among them where the answer may end. None:
    /// any.
    ///
    /// # Errors
    /// The grammar is too complex here, or the vocabulary has no token for what it wants.
    pub fn allowed(&mut self) -> Result<Option<TokenMask>, String> {
        if self.before.is_some() || self.allowed.is_some() {
            return Ok(self.allowed.clone().filter(|_| self.before.is_none()));
        }
        let set = self.matcher.compute_mask_or_eos().map_err(|error| format!("find what may come next: {error}"))?;
        let mut words: Vec<u32> = set.as_slice().to_vec();
        words.resize(TokenMask::num_words(self.vocab_size as usize), 0);
        let allowed = TokenMask::new(words);
        if allowed.is_empty() {
            return Err("the grammar wants what the model has no token for".into());
        }
        self.allowed = Some(allowed);
        Ok(self.allowed.clone())
    }

    /// Takes the token that came. True: nothing can follow, the answer is complete.
    ///
    /// # Errors
    /// The grammar does not take it.
    pub fn advance(&mut self, token: u32) -> Result<bool, String> {
        if let Some(before) = &mut self.before {
            if before.takes(token) {
                self.before = None;
            }
            return Ok(false);
        }
        self.allowed = None;
        self.matcher.consume_token(token).map_err(|error| format!("take token {token}: {error}"))?;
        Ok(self.matcher.is_stopped())
    }
}
