//! Metadata as the `config.json` that the same model has on the hub.

use serde_json::{Map, Value, json};

use super::family::Family;
use super::header::Header;
use super::rope::RopeFactors;
use crate::EngineError;
use crate::config::Architecture;

/// `config.json` of the model.
///
/// # Errors
/// [`EngineError::Architecture`], [`EngineError::Format`] naming the key.
pub fn config(header: &Header, rope: &RopeFactors) -> Result<Value, EngineError> {
    let family = Family::of(header)?;
    let mut fields = common(header, family)?;
    fields.extend(rope.fields(header, family)?);
    match family.architecture {
        Architecture::Mixtral => fields.extend(experts(header, family, "num_local_experts")?),
        Architecture::Qwen3Moe => fields.extend(qwen3_moe(header, family)?),
        Architecture::Gemma2 | Architecture::Gemma3 => fields.extend(gemma(header, family, &fields)?),
        Architecture::Phi3 => {
            let window = header.integer(&family.key("attention.sliding_window"))?.filter(|window| *window != 0);
            fields.insert("sliding_window".into(), json!(window));
        }
        Architecture::Llama | Architecture::Mistral | Architecture::Qwen2 | Architecture::Qwen3 => {}
    }
    Ok(Value::Object(fields))
}

/// What every family has.
fn common(header: &Header, family: Family) -> Result<Map<String, Value>, EngineError> {
    let need = |name: &str| header.need_integer(&family.key(name));
    let heads = need("attention.head_count")?;
    let eps = family.key("attention.layer_norm_rms_epsilon");
    let mut fields = object(json!({
        "architectures": [family.architecture.name()],
        "hidden_size": need("embedding_length")?,
        "intermediate_size": need("feed_forward_length")?,
        "num_hidden_layers": need("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": header.integer(&family.key("attention.head_count_kv"))?.unwrap_or(heads),
        "max_position_embeddings": need("context_length")?,
        "vocab_size": vocabulary(header)?,
        "tie_word_embeddings": header.tensor("output.weight").is_none(),
        "attention_bias": header.tensor("blk.0.attn_q.bias").is_some(),
        "rms_norm_eps": header.float(&eps)?.ok_or_else(|| header.wrong(&eps, "it is missing"))?,
        "eos_token_id": ends(header)?,
    }));
    let optional = [
        ("head_dim", header.integer(&family.key("attention.key_length"))?),
        ("bos_token_id", header.integer("tokenizer.ggml.bos_token_id")?),
    ];
    fields.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
    if let Some(partial) = partial_rotary(header, family, &fields)? {
        fields.insert("partial_rotary_factor".into(), partial.into());
    }
    Ok(fields)
}

/// Rows of the embedding.
fn vocabulary(header: &Header) -> Result<u64, EngineError> {
    let rows = header.tensor("token_embd.weight").and_then(|tensor| tensor.shape.first().copied());
    rows.ok_or_else(|| EngineError::format(&header.file, "tensor `token_embd.weight` is missing"))
}

/// Tokens that end an answer: of the text, of a turn, of a message.
fn ends(header: &Header) -> Result<Vec<i64>, EngineError> {
    let keys = ["eos", "eot", "eom"].map(|name| format!("tokenizer.ggml.{name}_token_id"));
    let mut ids = Vec::new();
    for key in keys {
        ids.extend(header.integer(&key)?.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}

/// Size of one head, where it can be told.
fn head_size(fields: &Map<String, Value>) -> Option<i64> {
    let field = |name: &str| fields.get(name).and_then(Value::as_i64);
    let size = field("head_dim").or_else(|| field("hidden_size")?.checked_div(field("num_attention_heads")?));
    size.filter(|size| *size > 0)
}

/// What part of a head turns, where that is not all of it.
fn partial_rotary(header: &Header, family: Family, fields: &Map<String, Value>) -> Result<Option<f64>, EngineError> {
    let rotary = header.integer(&family.key("rope.dimension_count"))?;
    let (Some(rotary), Some(head)) = (rotary, head_size(fields)) else { return Ok(None) };
    // Half a dimension more, so that the product of head and share is rounded down to this number.
    #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
    Ok((rotary != head).then(|| (rotary as f64 + 0.5) / head as f64))
}

fn experts(header: &Header, family: Family, count: &str) -> Result<Map<String, Value>, EngineError> {
    let need = |name: &str| header.need_integer(&family.key(name));
    Ok(object(json!({ count: need("expert_count")?, "num_experts_per_tok": need("expert_used_count")? })))
}

/// Files say nothing about the weights of a token's experts; llama.cpp makes them sum to one.
fn qwen3_moe(header: &Header, family: Family) -> Result<Map<String, Value>, EngineError> {
    let mut fields = experts(header, family, "num_experts")?;
    let inner = header.need_integer(&family.key("expert_feed_forward_length"))?;
    fields.extend(object(json!({ "moe_intermediate_size": inner, "norm_topk_prob": true })));
    Ok(fields)
}

/// Norms have the one that Gemma adds to them in the file already. What queries are scaled by is not in it: llama.cpp tells
/// the largest models, where it is not the head's size, by their number of layers.
fn gemma(header: &Header, family: Family, common: &Map<String, Value>) -> Result<Map<String, Value>, EngineError> {
    let key = |name: &str| family.key(name);
    let field = |name: &str| common.get(name).and_then(Value::as_i64).unwrap_or(0);
    let largest = if family.architecture == Architecture::Gemma2 { 46 } else { 62 };
    let scalar = match field("num_hidden_layers") {
        layers if layers == largest => field("hidden_size").checked_div(field("num_attention_heads")),
        _ => head_size(common),
    };
    let mut fields = object(json!({ "rms_norm_offset": 0.0, "query_pre_attn_scalar": scalar }));
    let caps = [
        ("attn_logit_softcapping", header.float(&key("attn_logit_softcapping"))?),
        ("final_logit_softcapping", header.float(&key("final_logit_softcapping"))?),
        ("rope_local_base_freq", header.float(&key("rope.freq_base_swa"))?),
    ];
    fields.extend(caps.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
    let window = header.integer(&key("attention.sliding_window"))?;
    if let Some(window) = window {
        fields.insert("sliding_window".into(), window.into());
    } else if family.architecture == Architecture::Gemma3 {
        // All of its layers see everything.
        fields.insert("sliding_window_pattern".into(), 1.into());
    }
    fields.extend(pattern(header, &key("attention.sliding_window_pattern"))?);
    Ok(fields)
}

/// Which layers slide, where the file says it: for each layer, or how many there are to one that sees everything.
fn pattern(header: &Header, key: &str) -> Result<Option<(String, Value)>, EngineError> {
    let kind = |slides: &i32| if *slides == 0 { "full_attention" } else { "sliding_attention" };
    match header.integers(key) {
        Ok([]) => Ok(None),
        Ok(slides) => Ok(Some(("layer_types".into(), slides.iter().map(kind).collect()))),
        Err(_) => Ok(Some(("sliding_window_pattern".into(), header.need_integer(key)?.into()))),
    }
}

/// The fields of an object that was just written down.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
