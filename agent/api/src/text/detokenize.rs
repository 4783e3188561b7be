//! Text of a growing answer. The detokenizer returns a token's text once no later token can change it.
//!
//! Byte-level tokens are bytes. The detokenizer decodes them as they come, and holds back the bytes of an incomplete
//! character. Other decoders look at neighbours (sentencepiece drops a leading space). For these, the detokenizer
//! decodes the newest tokens together with the few before them, and the new text is the difference. In both cases, the
//! cost of a token does not grow with the answer. Invariant: the returned texts, joined, are the decoded answer without
//! special tokens.

use std::sync::Arc;

use super::Tokenizer;

pub(crate) struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// Special tokens that show in the text.
    shown: Vec<u32>,
    /// Set if all special tokens show in the text.
    shows_special: bool,
    /// Bytes of a character that is not complete, at most 3.
    bytes: Vec<u8>,
    window: Window,
}

/// Tokens that are decoded together, for a decoder that looks at neighbours.
#[derive(Default)]
struct Window {
    /// Tokens whose text was returned, as context, then those of an incomplete character.
    tokens: Vec<u32>,
    /// Number of tokens at the front of `tokens` that are context.
    context: usize,
    /// Text of the context.
    returned: String,
}

impl Detokenizer {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, shown: Vec::new(), shows_special: false, bytes: Vec::new(), window: Window::default() }
    }

    /// Makes the answer the rest of a text that ends with these tokens. SentencePiece's decoder drops the first space of a
    /// text, but not of the rest of a text.
    pub(crate) fn after(mut self, prompt: &[u32]) -> Self {
        let last = prompt.last().copied().filter(|id| !self.tokenizer.is_byte_level() && self.is_whole_text(*id));
        if let Some(id) = last {
            self.window = Window { returned: self.tokenizer.decode(&[id], true), tokens: vec![id], context: 1 };
        }
        self
    }

    /// Returns true if the token alone is text: neither a special token nor one byte of a character.
    fn is_whole_text(&self, id: u32) -> bool {
        let tokenizer = &self.tokenizer;
        !tokenizer.is_special(id) && tokenizer.fallback_byte(id).is_none() && !tokenizer.token_bytes(id).is_empty()
    }

    /// Lets these special tokens show in the text. They are marks that the parser of the answer looks for.
    pub(crate) fn with_shown_marks(self, marks: &[&str]) -> Self {
        let shown = marks.iter().filter_map(|mark| self.tokenizer.special_token_id(mark)).collect();
        Self { shown, ..self }
    }

    /// Lets all special tokens show in the text if `shown` is set.
    pub(crate) fn with_special_tokens(self, shown: bool) -> Self {
        Self { shows_special: shown, ..self }
    }

    /// Takes one more token. Returns the text that no later token can change.
    pub(crate) fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_special(id) {
            if !self.shows_special && !self.shown.contains(&id) {
                return String::new();
            }
            // No character crosses a mark.
            let before = self.flush();
            self.window = Window::default();
            return before + &self.tokenizer.token_text(id);
        }
        if self.tokenizer.is_byte_level() {
            self.bytes.extend(self.tokenizer.token_bytes(id));
            return take_characters(&mut self.bytes);
        }
        self.push_to_window(id)
    }

    /// Ends the answer. Returns the text that was held back.
    pub(crate) fn flush(&mut self) -> String {
        if self.tokenizer.is_byte_level() {
            let rest = std::mem::take(&mut self.bytes);
            return String::from_utf8_lossy(&rest).into_owned();
        }
        self.window.take_text(&self.tokenizer)
    }

    fn push_to_window(&mut self, id: u32) -> String {
        if let Some(byte) = self.tokenizer.fallback_byte(id) {
            self.window.tokens.push(id);
            self.bytes.push(byte);
            if is_incomplete(&self.bytes) {
                return String::new();
            }
        } else if self.tokenizer.token_bytes(id).is_empty() {
            // Decoding leaves this token out, so it must not become the context of the next one.
            return String::new();
        } else {
            self.window.tokens.push(id);
        }
        self.bytes.clear();
        self.window.take_text(&self.tokenizer)
    }
}

impl Window {
    /// Returns the text of the tokens after the context. These tokens become the new context.
    fn take_text(&mut self, tokenizer: &Tokenizer) -> String {
        if self.tokens.len() == self.context {
            return String::new();
        }
        let text = tokenizer.decode(&self.tokens, true);
        let held = self.tokens.split_off(self.context);
        self.tokens = held;
        self.context = self.tokens.len();
        let alone = tokenizer.decode(&self.tokens, true);
        // Bytes that turn out to be no character change the decoding of the bytes before them.
        let new = text.strip_prefix(self.returned.as_str()).unwrap_or(&alone).to_owned();
        self.returned = alone;
        new
    }
}

/// Returns true if more bytes could complete a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Takes the complete characters off the front. Each run of bytes that is no character becomes U+FFFD, as in
/// `String::from_utf8_lossy`. The bytes of an incomplete character stay.
pub(crate) fn take_characters(bytes: &mut Vec<u8>) -> String {
    let all = std::mem::take(bytes);
    let mut chunks = all.utf8_chunks().peekable();
    let mut text = String::new();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        if chunks.peek().is_none() && is_incomplete(chunk.invalid()) {
            bytes.extend_from_slice(chunk.invalid());
        } else if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text
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

    #[test]
    fn the_rest_of_a_text_keeps_its_first_space() {
        let tokenizer = fixtures::sentencepiece();
        let [hello, world] = ["hello", " world"].map(|text| tokenizer.encode(text.trim(), false).unwrap());
        let stream = |prompt: &[u32]| {
            let mut detokenizer = Detokenizer::new(tokenizer.clone()).after(prompt);
            let text: String = world.iter().map(|id| detokenizer.push(*id)).collect();
            text + &detokenizer.flush()
        };
        assert_eq!(stream(&hello), " world");
        assert_eq!((stream(&[]), stream(&[1])), ("world".into(), "world".into()), "a text of its own");
        assert_eq!(stream(&[fixtures::byte_id(0xE2)]), "world", "a part of a character");
    }

    const TEXTS: [&str; 6] = [
        "",
        "hello world",
        " leading and trailing ",
        "naïve café",
        "日本語 👩‍👩‍👧 ok",
        "a\n\n\tb  c\u{FFFD}\u{FFFD}\u{FFFD}é",
    ];

    #[test]
    fn marks_are_shown() {
        let tokenizer = fixtures::byte_level();
        let ids = tokenizer.encode("hello<|end|> wo<|user|>", false).unwrap();
        let mut stream = Detokenizer::new(tokenizer).with_shown_marks(&["<|user|>", "no token"]);
        let text: String = ids.iter().map(|id| stream.push(*id)).collect();
        assert_eq!(text + &stream.flush(), "hello wo<|user|>");
        let mut stream = Detokenizer::new(fixtures::byte_level()).with_special_tokens(true);
        let text: String = ids.iter().map(|id| stream.push(*id)).collect();
        assert_eq!(text + &stream.flush(), "hello<|end|> wo<|user|>");
    }

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
            let text: String = (0..24).map(|_| stream.push(lone)).collect::<String>() + &stream.flush();
            assert_eq!(text, "\u{FFFD}".repeat(24));
            assert!(stream.window.tokens.len() <= 4);
        }
    }

    #[test]
    fn ids_without_text_change_nothing() {
        for tokenizer in [fixtures::byte_level(), fixtures::sentencepiece()] {
            let mut ids = tokenizer.encode("hello world", false).unwrap();
            ids.insert(1, 9_999);
            ids.push(9_999);
            check(tokenizer, &ids);
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

        #[test]
        fn any_bytes_stream_whole(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let ids: Vec<u32> = bytes.into_iter().map(u32::from).collect();
            check(fixtures::byte_level(), &ids);
        }
    }
}
