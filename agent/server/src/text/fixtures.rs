//! The test tokenizers, parsed.

use std::sync::Arc;

use super::Tokenizer;

#[path = "../../tests/common/tokenizers.rs"]
mod tokenizers;

pub use tokenizers::*;

pub fn byte_level() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_json(&byte_level_json()).unwrap())
}

pub fn sentencepiece() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_json(&sentencepiece_json()).unwrap())
}

/// Id of a byte in the sentencepiece vocabulary.
pub fn byte_id(byte: u8) -> u32 {
    u32::from(byte) + 3
}
