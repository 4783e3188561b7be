//! The vocabulary of a GGUF file, turned into `tokenizer.json` and `tokenizer_config.json`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::header::Header;
use crate::EngineError;

const TOKENS: &str = "tokenizer.ggml.tokens";
const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";

/// Kinds of tokens, by their number in `tokenizer.ggml.token_type`.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Patterns by which byte-level vocabularies cut text before merging, by `tokenizer.ggml.pre`.
const CUTS: [(&[&str], &str); 2] = [
    (
        &["llama-bpe", "llama3", "llama-v3"],
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        &["qwen2", "deepseek-r1-qwen"],
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];
/// Values of `tokenizer.ggml.pre` that mean GPT-2's pattern.
const GPT2_CUTS: [&str; 3] = ["gpt-2", "gpt2", "olmo"];

/// Returns `tokenizer.json`, for vocabularies of byte pairs (`gpt2`) and of SentencePiece (`llama`).
///
/// # Errors
/// [`EngineError::Format`] naming the key.
pub fn tokenizer(header: &Header) -> Result<Value, EngineError> {
    let tokens = header.texts(TOKENS)?.ok_or_else(|| header.wrong(TOKENS, "it is missing"))?;
    let mut vocabulary = BTreeMap::new();
    for (id, token) in tokens.iter().enumerate() {
        vocabulary.entry(token.as_str()).or_insert(id);
    }
    let mut json = match header.text(MODEL)? {
        Some("gpt2") => byte_pairs(header, &vocabulary)?,
        Some("llama") => sentence_piece(header, tokens, &vocabulary)?,
        found => return Err(header.wrong(MODEL, format!("{found:?} is not read; gpt2 and llama are"))),
    };
    json["version"] = "1.0".into();
    json["added_tokens"] = added_tokens(header, tokens)?;
    json["post_processor"] = begin_processor(header, tokens)?;
    Ok(json)
}

/// Returns `tokenizer_config.json`: the chat template, and the texts of the tokens that begin and end a text.
///
/// # Errors
/// [`EngineError::Format`] naming the key.
pub fn tokenizer_config(header: &Header) -> Result<Value, EngineError> {
    let mut json = json!({});
    let named = [("bos_token", "tokenizer.ggml.bos_token_id"), ("eos_token", "tokenizer.ggml.eos_token_id")];
    for (name, key) in named {
        if let Some(text) = token_at(header, key)? {
            json[name] = text.into();
        }
    }
    if let Some(template) = header.text("tokenizer.chat_template")? {
        json["chat_template"] = template.into();
    }
    json["add_bos_token"] = adds_begin(header)?.into();
    Ok(json)
}

/// Returns the text of the token whose id is at `key`.
fn token_at<'a>(header: &'a Header, key: &str) -> Result<Option<&'a str>, EngineError> {
    let Some(id) = header.integer(key)? else { return Ok(None) };
    let tokens = header.texts(TOKENS)?.unwrap_or_default();
    let text = usize::try_from(id).ok().and_then(|id| tokens.get(id));
    text.map(|text| Some(text.as_str())).ok_or_else(|| header.wrong(key, format!("there is no token {id}")))
}

fn adds_begin(header: &Header) -> Result<bool, EngineError> {
    let given = header.flag("tokenizer.ggml.add_bos_token")?;
    // llama.cpp does so if a file leaves the key out.
    let usual = header.text(MODEL)? == Some("llama") || header.text(PRE)?.is_some_and(|pre| CUTS[0].0.contains(&pre));
    Ok(given.unwrap_or(usual))
}

fn byte_pairs(header: &Header, vocabulary: &BTreeMap<&str, usize>) -> Result<Value, EngineError> {
    const MERGES: &str = "tokenizer.ggml.merges";
    let merges = header.texts(MERGES)?.ok_or_else(|| header.wrong(MERGES, "it is missing"))?;
    for merge in merges {
        let known = |(a, b): (&str, &str)| vocabulary.contains_key(a) && vocabulary.contains_key(b);
        if !merge.split_once(' ').is_some_and(known) {
            return Err(header.wrong(MERGES, format!("`{merge}` is not two tokens")));
        }
    }
    let pre = header.text(PRE)?.unwrap_or("gpt-2");
    let cut = CUTS.iter().find(|(names, _)| names.contains(&pre)).map(|(_, cut)| *cut);
    if cut.is_none() && !GPT2_CUTS.contains(&pre) {
        let known: Vec<&str> = CUTS.iter().flat_map(|(names, _)| *names).chain(&GPT2_CUTS).copied().collect();
        return Err(header.wrong(PRE, format!("`{pre}` is not known; known: {}", known.join(", "))));
    }
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let pre_tokenizer = match cut {
        Some(cut) => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": false}, bytes(false)]}),
        None => bytes(true),
    };
    let qwen = cut == Some(CUTS[1].1);
    Ok(json!({
        "normalizer": if qwen { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer,
        "decoder": bytes(true),
        // Llama 3 does not split a word that is a token.
        "model": {"type": "BPE", "ignore_merges": cut == Some(CUTS[0].1), "vocab": vocabulary, "merges": merges},
    }))
}

/// Turns a vocabulary of SentencePiece into one of byte pairs, as transformers does. SentencePiece joins the neighbours whose
/// token has the best score, which is byte-pair merging with the pairs in order of score.
fn sentence_piece(
    header: &Header,
    tokens: &[String],
    vocabulary: &BTreeMap<&str, usize>,
) -> Result<Value, EngineError> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores = header.floats(SCORES)?;
    if scores.len() != tokens.len() {
        return Err(header.wrong(SCORES, format!("{} scores for {} tokens", scores.len(), tokens.len())));
    }
    let mut merges: Vec<(f32, usize, usize, [&str; 2])> = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(_, token)| token.len() <= MAX_PIECE) {
        for (cut, _) in token.char_indices().skip(1) {
            let parts = [&token[..cut], &token[cut..]];
            if let (Some(left), Some(right)) = (vocabulary.get(parts[0]), vocabulary.get(parts[1])) {
                merges.push((scores[id], *left, *right, parts));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Vec<[&str; 2]> = merges.into_iter().map(|(.., parts)| parts).collect();
    let prefix = header.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let mut normalizers = vec![spaces];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = token_at(header, "tokenizer.ggml.unknown_token_id")?;
    Ok(json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "unk_token": unknown, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges},
    }))
}

/// Length of the longest piece that is cut into pairs, in bytes. SentencePiece's own bound is far below.
const MAX_PIECE: usize = 512;

fn added_tokens(header: &Header, tokens: &[String]) -> Result<Value, EngineError> {
    let kinds = header.integers("tokenizer.ggml.token_type")?;
    let added = tokens.iter().zip(kinds).enumerate().filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED));
    let added = added.filter(|(_, (token, _))| !token.is_empty()).map(|(id, (token, kind))| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": *kind == CONTROL})
    });
    Ok(added.collect())
}

/// Returns the processor that puts the beginning token before a text, if the model wants it.
fn begin_processor(header: &Header, tokens: &[String]) -> Result<Value, EngineError> {
    const BEGIN: &str = "tokenizer.ggml.bos_token_id";
    let (true, Some(id)) = (adds_begin(header)?, header.integer(BEGIN)?) else { return Ok(Value::Null) };
    let Some(text) = usize::try_from(id).ok().and_then(|id| tokens.get(id)) else {
        return Err(header.wrong(BEGIN, format!("there is no token {id}")));
    };
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {text.as_str(): {"id": text, "ids": [id], "tokens": [text]}},
    }))
}
