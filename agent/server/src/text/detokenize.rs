//! Text of a growing answer: what each token adds, as soon as it cannot change any more.
//!
//! Decoders look at neighbours (sentencepiece drops a leading space; a character's bytes may lie in several tokens), so
//! the newest tokens are decoded together with the few before them and the difference is what is new. The window never
//! holds more than two runs of [`MAX_HELD`] tokens, which keeps the whole answer linear in its length.
//! Invariant: the concatenation of all that is returned is the decoded answer, special tokens left out.

use std::sync::Arc;

use super::Tokenizer;

/// Tokens held back for an incomplete character. A character has at most 4 bytes, so more than that many tokens that
/// end in no character are no character at all.
const MAX_HELD: usize = 8;

/// Stands for bytes that are no character, or not yet one.
const REPLACEMENT: char = '\u{FFFD}';

pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// Tokens whose text was returned, as context, then tokens with text still held back.
    window: Vec<u32>,
    /// How many tokens of `window` are context.
    context: usize,
    /// Text of `window` that was returned.
    returned: String,
}

impl Detokenizer {
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, window: Vec::new(), context: 0, returned: String::new() }
    }

    /// Takes one more token; returns the text that became certain.
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_special(id) {
            return String::new();
        }
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window, true);
        let certain = text.trim_end_matches(REPLACEMENT);
        if certain.len() == text.len() {
            let new = self.beyond_returned(&text).unwrap_or_default();
            if !new.is_empty() {
                self.advance();
                return new;
            }
        }
        if self.window.len() - self.context >= MAX_HELD {
            return self.flush();
        }
        let new = self.beyond_returned(certain).unwrap_or_default();
        self.returned.push_str(&new);
        new
    }

    /// Ends the answer, or gives up on a character: returns what was held back as it is.
    pub fn flush(&mut self) -> String {
        if self.window.len() == self.context {
            return String::new();
        }
        let text = self.tokenizer.decode(&self.window, true);
        let new = self
            .beyond_returned(&text)
            .unwrap_or_else(|| self.tokenizer.decode(self.window.get(self.context..).unwrap_or_default(), true));
        self.advance();
        new
    }

    /// What `text` has after the text already returned; none where bytes turned out not to be what they seemed.
    fn beyond_returned(&self, text: &str) -> Option<String> {
        text.strip_prefix(self.returned.as_str()).map(str::to_owned)
    }

    /// Makes all held tokens the context of the next ones.
    fn advance(&mut self) {
        self.window.drain(..self.context);
        self.context = self.window.len();
        self.returned = self.tokenizer.decode(&self.window, true);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::fixtures;

    /// Streams `ids` and compares with decoding them at once.
    fn check(tokenizer: Arc<Tokenizer>, ids: &[u32]) {
        let mut stream = Detokenizer::new(tokenizer.clone());
        let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
        text.push_str(&stream.flush());
        assert_eq!(text, tokenizer.decode(ids, true), "{ids:?}");
    }

    const TEXTS: [&str; 6] = ["", "hello world", " leading and trailing ", "naïve café", "日本語 👩‍👩‍👧 ok", "a\n\n\tb  c"];

    #[test]
    fn streams_what_decoding_at_once_gives() {
        for tokenizer in [fixtures::byte_level(), fixtures::sentencepiece()] {
            for text in TEXTS {
                let ids = tokenizer.encode(text, false).unwrap();
                check(tokenizer.clone(), &ids);
            }
        }
    }

    #[test]
    fn holds_back_an_incomplete_character() {
        let tokenizer = fixtures::byte_level();
        let ids = tokenizer.encode("é!", false).unwrap();
        let mut stream = Detokenizer::new(tokenizer);
        let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
        assert_eq!(pieces, ["", "é", "!"]);
    }

    #[test]
    fn bytes_that_are_no_character_do_not_wait_for_ever() {
        let lone = [(fixtures::byte_level(), 0xC3), (fixtures::sentencepiece(), fixtures::byte_id(0xC3))];
        for (tokenizer, lone) in lone {
            let mut stream = Detokenizer::new(tokenizer);
            let mut text = String::new();
            for _ in 0..3 * MAX_HELD {
                text.push_str(&stream.push(lone));
            }
            assert!(!text.is_empty() && text.chars().all(|char| char == REPLACEMENT), "{text:?}");
            assert!(stream.window.len() <= 2 * MAX_HELD);
        }
    }

    proptest! {
        #[test]
        fn any_text_streams_whole(text in "\\PC{0,40}") {
            for tokenizer in [fixtures::byte_level(), fixtures::sentencepiece()] {
                let ids = tokenizer.encode(&text, false).unwrap();
                check(tokenizer.clone(), &ids);
            }
        }
    }
}
