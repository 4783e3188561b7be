//! Where one answer is in its grammar.

use llguidance::Matcher;
use lockstep_schedule::plan::TokenMask;

use super::GrammarError;

/// The state of one answer: which tokens may come next. Kept at the head, so that it outlives every group.
#[derive(Clone)]
pub struct Guide {
    matcher: Matcher,
    vocab_size: u32,
    /// Of the tokens so far; a plan that is lost with its group is made again.
    allowed: Option<TokenMask>,
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
        let mut guide = Self { matcher, vocab_size, allowed: None };
        guide.allowed().map_err(GrammarError::Invalid)?;
        Ok(guide)
    }

    /// The tokens that may come next, at least one; the model's end tokens are among them where the answer may end.
    ///
    /// # Errors
    /// The grammar is too complex here, or the vocabulary has no token for what it wants.
    pub fn allowed(&mut self) -> Result<TokenMask, String> {
        if let Some(allowed) = &self.allowed {
            return Ok(allowed.clone());
        }
        let set = self.matcher.compute_mask_or_eos().map_err(|error| format!("find what may come next: {error}"))?;
        let mut words: Vec<u32> = set.as_slice().to_vec();
        words.resize(TokenMask::words_for(self.vocab_size as usize), 0);
        let allowed = TokenMask::new(words);
        if allowed.is_empty() {
            return Err("the grammar wants what the model has no token for".into());
        }
        self.allowed = Some(allowed.clone());
        Ok(allowed)
    }

    /// Takes the token that came. True: nothing can follow, the answer is complete.
    ///
    /// # Errors
    /// The grammar does not take it.
    pub fn advance(&mut self, token: u32) -> Result<bool, String> {
        self.allowed = None;
        self.matcher.consume_token(token).map_err(|error| format!("take token {token}: {error}"))?;
        Ok(self.matcher.is_stopped())
    }
}
