//! State of one answer in its grammar.

use std::sync::Arc;

use llguidance::Matcher;
use lockstep_schedule::plan::TokenMask;

use super::{GrammarError, TokenRules};
use crate::text::Tokenizer;

/// State of one answer: the tokens that may come next. The head keeps it, so that it outlives the loss of ranks.
#[derive(Clone)]
pub struct Guide {
    /// State in the grammar. `None` if the answer has only rules about tokens.
    matcher: Option<Matcher>,
    rules: Option<TokenRules>,
    vocab_size: u32,
    /// Tokens that may follow the tokens so far, once computed. If a plan is lost with a rank, the head makes the plan
    /// again and reads this mask once more.
    allowed: Option<TokenMask>,
    /// Mark that must come before the grammar applies. `None` once it has come, or if there is none.
    awaited_mark: Option<AwaitedMark>,
}

/// Search for a mark in an answer's bytes.
#[derive(Clone)]
struct AwaitedMark {
    tokenizer: Arc<Tokenizer>,
    mark: &'static str,
    /// The last bytes of the answer, fewer than the mark has.
    last: Vec<u8>,
}

impl AwaitedMark {
    /// Takes a token. Returns true if the mark is now complete.
    fn find(&mut self, token: u32) -> bool {
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
    /// Makes the state before the first token.
    ///
    /// # Errors
    /// The grammar allows no answer at all.
    pub(super) fn new(matcher: Matcher, vocab_size: u32) -> Result<Self, GrammarError> {
        let mut guide = Self { matcher: Some(matcher), rules: None, vocab_size, allowed: None, awaited_mark: None };
        guide.allowed().map_err(GrammarError::Invalid)?;
        Ok(guide)
    }

    /// Makes the state of an answer that has rules about tokens and no grammar.
    pub(crate) fn from_rules(rules: TokenRules, vocab_size: u32) -> Self {
        Self { matcher: None, rules: Some(rules), vocab_size, allowed: None, awaited_mark: None }
    }

    /// Adds rules about tokens.
    #[must_use]
    pub(crate) fn with_rules(self, rules: TokenRules) -> Self {
        Self { rules: Some(rules), allowed: None, ..self }
    }

    /// Lets any text come before the grammar, up to and including `mark`.
    #[must_use]
    pub(crate) fn after_mark(self, mark: &'static str, tokenizer: Arc<Tokenizer>) -> Self {
        Self { awaited_mark: Some(AwaitedMark { tokenizer, mark, last: Vec::new() }), allowed: None, ..self }
    }

    /// Returns the tokens that may come next, at least one, or `None` if any token may. The model's end tokens are
    /// among them if the answer may end.
    ///
    /// # Errors
    /// The grammar is too complex at this point, or the vocabulary has no token for any text that it allows.
    pub fn allowed(&mut self) -> Result<Option<TokenMask>, String> {
        if self.allowed.is_none() {
            let of_grammar = self.allowed_by_grammar()?;
            self.allowed = match &self.rules {
                Some(rules) => rules.restrict(of_grammar),
                None => of_grammar,
            };
        }
        match &self.allowed {
            Some(allowed) if allowed.is_empty() => Err("the rules about tokens leave no token".into()),
            allowed => Ok(allowed.clone()),
        }
    }

    /// Returns the tokens that the grammar allows next, or `None` if it allows any.
    fn allowed_by_grammar(&mut self) -> Result<Option<TokenMask>, String> {
        let Some(matcher) = self.matcher.as_mut().filter(|_| self.awaited_mark.is_none()) else { return Ok(None) };
        let set = matcher.compute_mask_or_eos().map_err(|error| no_mask(&error.to_string()))?;
        let mut words: Vec<u32> = set.as_slice().to_vec();
        words.resize(TokenMask::num_words(self.vocab_size as usize), 0);
        let allowed = TokenMask::new(words);
        if allowed.is_empty() {
            return Err("the model has no token for any text that the grammar allows next".into());
        }
        Ok(Some(allowed))
    }

    /// Takes the next token of the answer. Returns true if the answer is complete, so that no token can follow.
    ///
    /// # Errors
    /// The grammar does not allow the token.
    pub fn advance(&mut self, token: u32) -> Result<bool, String> {
        self.allowed = None;
        if let Some(rules) = &mut self.rules {
            rules.advance(token);
        }
        if let Some(mark) = &mut self.awaited_mark {
            if mark.find(token) {
                self.awaited_mark = None;
            }
            return Ok(false);
        }
        let Some(matcher) = &mut self.matcher else { return Ok(false) };
        matcher.consume_token(token).map_err(|error| format!("take token {token}: {error}"))?;
        Ok(matcher.is_stopped())
    }
}

/// Returns the error of a grammar that cannot go on.
fn no_mask(error: &str) -> String {
    if error.contains("NoExtensionBias") {
        return "the grammar allows no text: a rule or a $ref leads only to itself".into();
    }
    format!("find what may come next: {error}")
}
