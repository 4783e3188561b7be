//! The model's tokenizer: text to ids, ids to text, and the bytes of one token.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::TextError;

/// A parsed `tokenizer.json`. Its truncation and padding are off: a prompt is encoded as a whole or refused.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Added tokens by id: their text, and true for a special token.
    added: HashMap<u32, (String, bool)>,
    spelling: ByteSpelling,
    /// Byte that each character of a byte-level token stands for.
    bytes_of: HashMap<char, u8>,
}

/// The vocabulary's spelling of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ByteSpelling {
    /// One printable character per byte.
    ByteLevel,
    /// `▁` for a space, `<0xNN>` for a byte.
    SentencePiece,
    /// Any other spelling. The decoder knows it.
    Plain,
}

impl Tokenizer {
    /// Parses a `tokenizer.json`.
    ///
    /// # Errors
    /// Fails if the file does not parse.
    pub fn from_json(json: &[u8]) -> Result<Self, TextError> {
        let raw: serde_json::Value =
            serde_json::from_slice(json).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        let parse = || {
            let mut inner = tokenizers::Tokenizer::from_bytes(json)?;
            inner.with_truncation(None)?;
            inner.with_padding(None);
            Ok(inner)
        };
        let inner = catch_panic(parse).map_err(TextError::Tokenizer)?;
        let added = inner.get_added_tokens_decoder();
        let added = added.into_iter().map(|(id, token)| (id, (token.content, token.special))).collect();
        Ok(Self {
            inner,
            added,
            spelling: spelling_of_decoder(&raw["decoder"].to_string()),
            bytes_of: byte_level_alphabet(),
        })
    }

    /// Returns the token ids of a text. `special` adds the special tokens that the tokenizer is configured to add.
    ///
    /// # Errors
    /// Fails if the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        let encoding = catch_panic(|| self.inner.encode_fast(text, special)).map_err(TextError::Encode)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the text of token ids. An incomplete character becomes U+FFFD, and an unknown id is left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        catch_panic(|| self.inner.decode(ids, skip_special)).unwrap_or_else(|error| {
            tracing::warn!(error, "decode tokens");
            String::new()
        })
    }

    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns the id of the special token with exactly this text.
    pub fn special_token_id(&self, token: &str) -> Option<u32> {
        self.token_id(token).filter(|id| self.is_special(*id))
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.added.get(&id).is_some_and(|(_, special)| *special)
    }

    /// Returns true if tokens are bytes, so that decoding is joining them.
    pub fn is_byte_level(&self) -> bool {
        self.spelling == ByteSpelling::ByteLevel
    }

    /// Returns the byte of a token such as `<0x0A>`, which stands for a byte without a token of its own.
    pub fn fallback_byte(&self, id: u32) -> Option<u8> {
        match self.spelling {
            ByteSpelling::SentencePiece => byte_token(&self.inner.id_to_token(id)?),
            ByteSpelling::ByteLevel | ByteSpelling::Plain => None,
        }
    }

    /// Returns the bytes of one token alone, and none for an unknown id.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        if let Some((content, _)) = self.added.get(&id) {
            return content.clone().into_bytes();
        }
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        match self.spelling {
            ByteSpelling::ByteLevel => {
                let bytes: Option<Vec<u8>> = token.chars().map(|char| self.bytes_of.get(&char).copied()).collect();
                bytes.unwrap_or_else(|| token.into_bytes())
            }
            ByteSpelling::SentencePiece => match byte_token(&token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
            ByteSpelling::Plain => self.decode(&[id], false).into_bytes(),
        }
    }

    /// Returns a token as the vocabulary spells it, or nothing for an unknown id.
    pub fn piece(&self, id: u32) -> String {
        self.inner.id_to_token(id).unwrap_or_default()
    }

    /// Returns [`Self::token_bytes`] as text. Bytes that are no character become U+FFFD.
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.token_bytes(id)).into_owned()
    }
}

/// Turns a panic into an error. The library panics on some files, and on some texts with tokenizers that it accepted.
fn catch_panic<T>(work: impl FnOnce() -> Result<T, tokenizers::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer's parts do not fit each other".into()),
    }
}

/// Finds the spelling by the types of the decoders in the file.
fn spelling_of_decoder(decoder: &str) -> ByteSpelling {
    if decoder.contains("\"ByteLevel\"") {
        ByteSpelling::ByteLevel
    } else if decoder.contains("\"ByteFallback\"") || decoder.contains("\"Metaspace\"") {
        ByteSpelling::SentencePiece
    } else {
        ByteSpelling::Plain
    }
}

/// Returns the byte of `<0xNN>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Returns GPT-2's spelling of bytes: printable Latin-1 stands for itself, and the other bytes are spelled U+0100 and
/// on, in order.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 0x100u32..;
    (0..=255u8)
        .filter_map(|byte| {
            let code = if printable(byte) { u32::from(byte) } else { others.next()? };
            Some((char::from_u32(code)?, byte))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::fixtures;

    #[test]
    fn tokens_have_bytes() {
        let byte_level = fixtures::byte_level();
        let sentencepiece = fixtures::sentencepiece();
        let cases: [(&Tokenizer, &str, &[u8]); 6] = [
            (&byte_level, "hello", b"hello"),
            (&byte_level, "\u{120}wo", b" wo"),
            (&byte_level, "\u{c3}", &[0xC3]),
            (&byte_level, "<|end|>", b"<|end|>"),
            (&sentencepiece, "\u{2581}wo", b" wo"),
            (&sentencepiece, "<0xC3>", &[0xC3]),
        ];
        for (tokenizer, token, bytes) in cases {
            let id = tokenizer.token_id(token).unwrap();
            assert_eq!(tokenizer.token_bytes(id), bytes, "{token}");
        }
        assert!(byte_level.token_bytes(9999).is_empty());
        assert_eq!(byte_level.special_token_id("<|end|>"), Some(fixtures::END));
        assert_eq!(byte_level.special_token_id("hello"), None);
    }

    #[test]
    fn encodes_and_decodes() {
        let tokenizer = fixtures::byte_level();
        let ids = tokenizer.encode("hello world<|end|>", true).unwrap();
        assert_eq!(ids.last(), Some(&fixtures::END));
        assert_eq!(tokenizer.decode(&ids, false), "hello world<|end|>");
        assert_eq!(tokenizer.decode(&ids, true), "hello world");
        assert!(Tokenizer::from_json(b"{}").is_err());
    }
}
