//! The test tokenizers, parsed.

use std::sync::Arc;

use serde_json::json;

use super::Tokenizer;

#[path = "../../tests/clients/common/tokenizers.rs"]
mod tokenizers;

pub(crate) use tokenizers::*;

pub(crate) fn byte_level() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_json(&byte_level_json()).unwrap())
}

pub(crate) fn sentencepiece() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_json(&sentencepiece_json()).unwrap())
}

/// Id of a byte in the sentencepiece vocabulary.
pub(crate) fn byte_id(byte: u8) -> u32 {
    u32::from(byte) + 3
}

/// Returns a `tokenizer.json` with `▁` for spaces. `<0xNN>` is a byte of a character without a token. Byte b has id b +
/// 3.
fn sentencepiece_json() -> Vec<u8> {
    let mut vocab = serde_json::Map::new();
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let letters = "▁abcdefghijklmnopqrstuvwxyz".chars().map(String::from);
    let specials = ["<unk>", "<s>", "</s>"].map(String::from);
    let merged = ["he", "ll", "hell", "hello", "▁w", "▁wo"].map(String::from);
    for token in specials.into_iter().chain(bytes).chain(letters).chain(merged) {
        vocab.insert(token, json!(vocab.len()));
    }
    let merges: Vec<String> = MERGES.iter().map(|(l, r)| format!("{l} {r}").replace('Ġ', "▁")).collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": merges},
    });
    serde_json::to_vec(&json).unwrap()
}
