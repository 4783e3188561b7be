//! A tiny byte-level tokenizer.

use serde_json::{Value, json};

/// Ids below 256 are bytes; then come [`MERGED`] and [`SPECIAL`].
pub(crate) const MERGED: [&str; 6] = ["he", "ll", "hell", "hello", "Ġw", "Ġwo"];
pub(crate) const SPECIAL: [&str; 3] = ["<|begin|>", "<|end|>", "<|user|>"];
/// Id of `<|end|>`.
pub(crate) const END: u32 = 256 + 6 + 1;
/// Tokens of the byte-level vocabulary.
pub(crate) const BYTE_LEVEL_VOCAB: u32 = 256 + 6 + 3;

pub(crate) const MERGES: [(&str, &str); 6] =
    [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("Ġw", "o")];

/// Character that the byte-level spelling writes for a byte.
fn spelled(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let earlier = (0..byte).filter(|byte| !printable(*byte)).count();
    char::from_u32(0x100 + earlier as u32).unwrap()
}

/// An added token, special.
pub(crate) fn added(id: usize, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

/// A `tokenizer.json` with one token per byte, a few merges and three special tokens.
pub(crate) fn byte_level_json() -> Vec<u8> {
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255u8 {
        vocab.insert(spelled(byte).to_string(), json!(byte));
    }
    for (at, token) in MERGED.iter().chain(&SPECIAL).enumerate() {
        vocab.insert((*token).into(), json!(256 + at));
    }
    let first_special = 256 + MERGED.len();
    let specials: Vec<Value> = SPECIAL.iter().enumerate().map(|(at, token)| added(first_special + at, token)).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let merges: Vec<String> = MERGES.iter().map(|(left, right)| format!("{left} {right}")).collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": specials,
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges},
    });
    serde_json::to_vec(&json).unwrap()
}
