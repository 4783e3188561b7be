//! The vocabulary of a GGUF file, turned into `tokenizer.json` and `tokenizer_config.json`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::header::Header;
use super::pre_tokenizer::{DEFAULT, PreTokenizer, Spelling};
use crate::EngineError;

const TOKENS: &str = "tokenizer.ggml.tokens";
const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";

/// Key of the kinds of tokens.
const KINDS: &str = "tokenizer.ggml.token_type";
/// Kinds of tokens, by their number.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Tokens of Phi-3 after which blanks are kept. All other special tokens of Phi-3 swallow the blanks after them, which the
/// keys of a file do not say.
const KEEP_BLANKS: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// Returns `tokenizer.json`, for vocabularies of byte pairs (`gpt2`, `gemma4`), SentencePiece (`llama`) and WordPiece
/// (`bert`).
///
/// # Errors
/// [`EngineError::Format`] naming the key.
pub fn tokenizer(header: &Header) -> Result<Value, EngineError> {
    let tokens = header.texts(TOKENS)?.ok_or_else(|| header.wrong(TOKENS, "it is missing"))?;
    let mut vocabulary = BTreeMap::new();
    for (id, token) in tokens.iter().enumerate() {
        vocabulary.entry(token.as_str()).or_insert(id);
    }
    let mut json = match header.text(MODEL)?.ok_or_else(|| header.wrong(MODEL, "it is missing"))? {
        "gpt2" | "gemma4" => byte_pairs(header, &vocabulary)?,
        "llama" => sentence_piece(header, tokens, &vocabulary)?,
        "bert" => word_piece(header, tokens)?,
        found => return Err(header.wrong(MODEL, format!("`{found}` is not read; gpt2, gemma4, llama and bert are"))),
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

/// Returns a warning if the file names no cut of its texts.
///
/// # Errors
/// [`EngineError::Format`] naming the key.
pub fn warning(header: &Header) -> Result<Option<String>, EngineError> {
    let is_unnamed = header.text(MODEL)? == Some("gpt2") && header.text(PRE)?.is_none();
    Ok(is_unnamed.then(|| {
        format!("{} has no {PRE}, so texts are cut by a guess and answers may be worse: take a newer file", header.file)
    }))
}

/// Returns the cut that the file names. A file that names none has llama.cpp's default.
fn pre_tokenizer(header: &Header) -> Result<&'static PreTokenizer, EngineError> {
    let name = match header.text(MODEL)? {
        Some("gemma4") => "gemma4",
        _ => header.text(PRE)?.unwrap_or(DEFAULT),
    };
    PreTokenizer::find(name).ok_or_else(|| {
        let known = PreTokenizer::names().collect::<Vec<_>>().join(", ");
        header.wrong(PRE, format!("`{name}` is not known; known: {known}"))
    })
}

fn adds_begin(header: &Header) -> Result<bool, EngineError> {
    // llama.cpp has the same defaults. It also overrides the key for Gemma 4, whose first files had it wrong.
    let given = header.flag("tokenizer.ggml.add_bos_token")?;
    let usual = match header.text(MODEL)? {
        Some("gemma4") => return Ok(true),
        Some("gpt2") => pre_tokenizer(header)?.adds_begin,
        model => matches!(model, Some("llama" | "bert")),
    };
    Ok(given.unwrap_or(usual))
}

fn byte_pairs(header: &Header, vocabulary: &BTreeMap<&str, usize>) -> Result<Value, EngineError> {
    const MERGES: &str = "tokenizer.ggml.merges";
    let merges = header.texts(MERGES)?.ok_or_else(|| header.wrong(MERGES, "it is missing"))?;
    let pair = |merge: &'_ String| {
        // A token may begin with a blank.
        let blank = merge.char_indices().skip(1).find(|(_, letter)| *letter == ' ').map(|(at, _)| at);
        let pair = blank.map(|at| [merge[..at].to_owned(), merge[at + 1..].to_owned()]);
        let pair = pair.filter(|pair| pair.iter().all(|token| vocabulary.contains_key(token.as_str())));
        pair.ok_or_else(|| header.wrong(MERGES, format!("`{merge}` is not two tokens")))
    };
    let merges = merges.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
    let pre = pre_tokenizer(header)?;
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let cut = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let mut cuts: Vec<Value> = pre.patterns.iter().map(cut).collect();
    let model = |unknown: Option<&str>, byte_fallback: bool| {
        json!({"type": "BPE", "unk_token": unknown, "fuse_unk": byte_fallback, "byte_fallback": byte_fallback,
            "ignore_merges": pre.ignore_merges, "vocab": vocabulary, "merges": merges})
    };
    if pre.spelling == Spelling::Text {
        let unknown = token_at(header, "tokenizer.ggml.unknown_token_id")?;
        return Ok(json!({
            "normalizer": blanks_to_marks(),
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts},
            "decoder": {"type": "Sequence", "decoders": marks_to_blanks()},
            "model": model(unknown, true),
        }));
    }
    cuts.push(bytes.clone());
    let is_normalized = pre.spelling == Spelling::NormalizedBytes;
    Ok(json!({
        "normalizer": if is_normalized { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts},
        "decoder": bytes,
        "model": model(None, false),
    }))
}

/// Returns the normalizer that writes `▁` for each blank.
fn blanks_to_marks() -> Value {
    json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
}

/// Returns the decoders that undo [`blanks_to_marks`] and join the bytes of a character.
fn marks_to_blanks() -> Vec<Value> {
    vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ]
}

/// Turns a vocabulary whose words begin with `▁` into one whose other pieces begin with `##`, as the published files of such
/// models have it.
fn word_piece(header: &Header, tokens: &[String]) -> Result<Value, EngineError> {
    let kinds = header.integers(KINDS)?;
    let mut vocabulary = BTreeMap::new();
    for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
        let piece = match token.strip_prefix('▁') {
            Some(word) => word.to_owned(),
            None if *kind == NORMAL => format!("##{token}"),
            None => token.clone(),
        };
        vocabulary.entry(piece).or_insert(id);
    }
    let lowercase = header.flag("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
    Ok(json!({
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": token_at(header, "tokenizer.ggml.unknown_token_id")?.unwrap_or("[UNK]"),
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocabulary},
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
    let mut decoders = marks_to_blanks();
    let mut normalizers = vec![blanks_to_marks()];
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
    let kinds = header.integers(KINDS)?;
    let strips = strips_blanks(header)?;
    let added = tokens.iter().zip(kinds).enumerate().filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED));
    let added = added.filter(|(_, (token, _))| !token.is_empty()).map(|(id, (token, kind))| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false,
            "rstrip": strips && !KEEP_BLANKS.contains(&token.as_str()), "normalized": false, "special": *kind == CONTROL})
    });
    Ok(added.collect())
}

/// Returns true for a file of Phi-3's SentencePiece vocabulary, by the name that the file gives the model.
fn strips_blanks(header: &Header) -> Result<bool, EngineError> {
    let name = header.text("general.name")?.unwrap_or_default().to_lowercase();
    let is_phi3 =
        header.text("general.architecture")? == Some("phi3") || name.contains("phi-3") || name.contains("phi3");
    Ok(is_phi3 && header.text(MODEL)? == Some("llama"))
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
