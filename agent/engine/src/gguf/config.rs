//! Metadata turned into the `config.json` that the same model has on the hub.

use serde_json::{Map, Value, json};

use super::family::FileFamily;
use super::header::Header;
use super::rope::RopeFactors;
use crate::EngineError;
use crate::config::{GgufValue, GgufWindow};

/// Returns the `config.json` of the model.
///
/// # Errors
/// [`EngineError::Architecture`], [`EngineError::Format`] naming the key.
pub fn config(header: &Header, rope: &RopeFactors) -> Result<Value, EngineError> {
    let family = FileFamily::new(header)?;
    let mut fields = common_fields(header, family)?;
    fields.extend(rope.fields(header, family)?);
    for (key, value) in family.facts.config {
        if let Some(value) = family_value(header, family, value, &fields)? {
            fields.insert((*key).into(), value);
        }
    }
    fields.extend(window_fields(header, family)?);
    Ok(Value::Object(fields))
}

/// Returns the keys that every family has.
fn common_fields(header: &Header, family: FileFamily) -> Result<Map<String, Value>, EngineError> {
    let need = |name: &str| header.need_integer(&family.key(name));
    let (hidden, heads) = (need("embedding_length")?, need("attention.head_count")?);
    // llama.cpp divides in every family, so no family's own default may take its place.
    let head_dim = header.integer(&family.key("attention.key_length"))?.or_else(|| hidden.checked_div(heads));
    let eps = family.key("attention.layer_norm_rms_epsilon");
    let mut fields = object(json!({
        "architectures": [family.architecture.name()],
        "hidden_size": hidden,
        "intermediate_size": need("feed_forward_length")?,
        "num_hidden_layers": need("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": header.integer(&family.key("attention.head_count_kv"))?.unwrap_or(heads),
        "max_position_embeddings": need("context_length")?,
        "vocab_size": vocabulary_size(header)?,
        "tie_word_embeddings": header.tensor("output.weight").is_none(),
        "attention_bias": header.tensor("blk.0.attn_q.bias").is_some(),
        "rms_norm_eps": header.float(&eps)?.ok_or_else(|| header.wrong(&eps, "it is missing"))?,
        "eos_token_id": end_tokens(header)?,
    }));
    let optional = [("head_dim", head_dim), ("bos_token_id", header.integer("tokenizer.ggml.bos_token_id")?)];
    fields.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
    if let Some(partial) = partial_rotary_factor(header, family, &fields)? {
        fields.insert("partial_rotary_factor".into(), partial.into());
    }
    Ok(fields)
}

/// Returns the value of a key that not every family has; `None` leaves the key out. `common` are the common keys.
fn family_value(
    header: &Header,
    family: FileFamily,
    value: &GgufValue,
    common: &Map<String, Value>,
) -> Result<Option<Value>, EngineError> {
    Ok(match value {
        GgufValue::True => Some(true.into()),
        GgufValue::Zero => Some(0.0.into()),
        GgufValue::Integer(key) => Some(header.need_integer(&family.key(key))?.into()),
        GgufValue::Float(key) => header.float(&family.key(key))?.map(Value::from),
        GgufValue::QueryPreAttnScalar { even_at } => {
            let field = |name: &str| common.get(name).and_then(Value::as_i64).unwrap_or(0);
            let scalar = if field("num_hidden_layers") == *even_at {
                field("hidden_size").checked_div(field("num_attention_heads"))
            } else {
                head_size(common)
            };
            Some(scalar.into())
        }
    })
}

/// Returns the keys about sliding windows.
fn window_fields(header: &Header, family: FileFamily) -> Result<Map<String, Value>, EngineError> {
    let mut fields = Map::new();
    if matches!(family.facts.window, GgufWindow::Ignored) {
        return Ok(fields);
    }
    let window = header.integer(&family.key("attention.sliding_window"))?;
    let pattern = || sliding_pattern(header, &family.key("attention.sliding_window_pattern"));
    match (&family.facts.window, window) {
        (GgufWindow::Ignored, _) => {}
        (GgufWindow::ZeroIsNone, window) => {
            fields.insert("sliding_window".into(), json!(window.filter(|window| *window != 0)));
        }
        (GgufWindow::Patterned | GgufWindow::PatternedOrNone, Some(window)) => {
            fields.insert("sliding_window".into(), window.into());
            fields.extend(pattern()?);
        }
        (GgufWindow::Patterned, None) => fields.extend(pattern()?),
        (GgufWindow::PatternedOrNone, None) => {
            // A pattern of 1: the last layer of each one sees everything.
            fields.insert("sliding_window_pattern".into(), 1.into());
            fields.extend(pattern()?);
        }
    }
    Ok(fields)
}

/// Returns the rows of the embedding.
fn vocabulary_size(header: &Header) -> Result<u64, EngineError> {
    let rows = header.tensor("token_embd.weight").and_then(|tensor| tensor.shape.first().copied());
    rows.ok_or_else(|| EngineError::format(&header.file, "tensor `token_embd.weight` is missing"))
}

/// Returns the tokens that end an answer: those of the text, of a turn and of a message.
fn end_tokens(header: &Header) -> Result<Vec<i64>, EngineError> {
    let keys = ["eos", "eot", "eom"].map(|name| format!("tokenizer.ggml.{name}_token_id"));
    let mut ids = Vec::new();
    for key in keys {
        ids.extend(header.integer(&key)?.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}

/// Returns the size of one head, if the keys so far give it.
fn head_size(fields: &Map<String, Value>) -> Option<i64> {
    let field = |name: &str| fields.get(name).and_then(Value::as_i64);
    let size = field("head_dim").or_else(|| field("hidden_size")?.checked_div(field("num_attention_heads")?));
    size.filter(|size| *size > 0)
}

/// Returns the part of a head that turns, if that is not all of it.
fn partial_rotary_factor(
    header: &Header,
    family: FileFamily,
    fields: &Map<String, Value>,
) -> Result<Option<f64>, EngineError> {
    let rotary = header.integer(&family.key("rope.dimension_count"))?;
    let (Some(rotary), Some(head)) = (rotary, head_size(fields)) else { return Ok(None) };
    // Half a dimension more, so that the product of head and share is rounded down to this number.
    #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
    Ok((rotary != head).then(|| (rotary as f64 + 0.5) / head as f64))
}

/// Returns the key that says which layers slide. A file has either a flag for each layer, or a number n. In a file
/// with a number, every n-th layer sees everything, and the others slide.
fn sliding_pattern(header: &Header, key: &str) -> Result<Option<(String, Value)>, EngineError> {
    let kind = |slides: &i32| if *slides == 0 { "full_attention" } else { "sliding_attention" };
    match header.integers(key) {
        Ok([]) => Ok(None),
        Ok(slides) => Ok(Some(("layer_types".into(), slides.iter().map(kind).collect()))),
        Err(_) => Ok(Some(("sliding_window_pattern".into(), header.need_integer(key)?.into()))),
    }
}

/// Returns the keys of a JSON object.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}
