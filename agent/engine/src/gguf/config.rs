//! Metadata as the `config.json` that the same model has on the hub.

use serde_json::{Map, Value, json};

use super::header::Header;
use crate::EngineError;

/// Architectures by llama.cpp's name and transformers'.
const ARCHITECTURES: [(&str, &str); 3] =
    [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")];

/// `config.json` of the model. `rope_factors` is the tensor `rope_freqs.weight`, where the file has one.
///
/// # Errors
/// [`EngineError::Architecture`], [`EngineError::Format`] naming the key.
pub fn config(header: &Header, rope_factors: Option<&[f32]>) -> Result<Value, EngineError> {
    let found = header.text("general.architecture")?;
    let found = found.ok_or_else(|| header.wrong("general.architecture", "it is missing"))?;
    let known = ARCHITECTURES.iter().find(|(gguf, _)| *gguf == found);
    let (arch, architecture) = known.ok_or_else(|| EngineError::Architecture {
        found: format!("{found} (in {})", header.file),
        supported: ARCHITECTURES.map(|(gguf, _)| gguf).join(", "),
    })?;
    let key = |name: &str| format!("{arch}.{name}");
    let need = |name: &str| header.need_integer(&key(name));
    let heads = need("attention.head_count")?;
    let mut config = json!({
        "architectures": [architecture],
        "hidden_size": need("embedding_length")?,
        "intermediate_size": need("feed_forward_length")?,
        "num_hidden_layers": need("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": header.integer(&key("attention.head_count_kv"))?.unwrap_or(heads),
        "max_position_embeddings": need("context_length")?,
        "vocab_size": vocabulary(header)?,
        "tie_word_embeddings": header.tensor("output.weight").is_none(),
        "attention_bias": header.tensor("blk.0.attn_q.bias").is_some(),
        "rope_theta": header.float(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        "eos_token_id": ends(header)?,
    });
    let eps = key("attention.layer_norm_rms_epsilon");
    let optional = [
        ("rms_norm_eps", Some(json!(header.float(&eps)?.ok_or_else(|| header.wrong(&eps, "it is missing"))?))),
        ("head_dim", header.integer(&key("attention.key_length"))?.map(Value::from)),
        ("bos_token_id", header.integer("tokenizer.ggml.bos_token_id")?.map(Value::from)),
        ("rope_scaling", rope_scaling(header, arch, rope_factors)?),
    ];
    if let Some(fields) = config.as_object_mut() {
        fields.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        partial_rotary(header, arch, fields)?;
    }
    Ok(config)
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

fn partial_rotary(header: &Header, arch: &str, fields: &mut Map<String, Value>) -> Result<(), EngineError> {
    let key = format!("{arch}.rope.dimension_count");
    let Some(rotary) = header.integer(&key)? else { return Ok(()) };
    let (hidden, heads) = (fields["hidden_size"].as_i64(), fields["num_attention_heads"].as_i64());
    let head = fields.get("head_dim").and_then(Value::as_i64);
    let head = head.or_else(|| hidden?.checked_div(heads?)).filter(|head| *head > 0);
    if let Some(head) = head.filter(|head| *head != rotary) {
        #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
        fields.insert("partial_rotary_factor".into(), json!(rotary as f64 / head as f64));
    }
    Ok(())
}

fn rope_scaling(header: &Header, arch: &str, factors: Option<&[f32]>) -> Result<Option<Value>, EngineError> {
    let key = |name: &str| format!("{arch}.rope.scaling.{name}");
    if let Some(factors) = factors {
        return llama3(header, arch, factors).map(Some);
    }
    let kind = match header.text(&key("type"))? {
        None | Some("none") => return Ok(None),
        Some(kind) => kind,
    };
    let factor = header.float(&key("factor"))?.ok_or_else(|| header.wrong(&key("factor"), "it is missing"))?;
    let mut scaling = json!({ "rope_type": kind, "factor": factor });
    if let Some(length) = header.integer(&key("original_context_length"))? {
        scaling["original_max_position_embeddings"] = length.into();
    }
    Ok(Some(scaling))
}

/// Llama 3.1's scaling is in a file by what each frequency is divided by. Its parameters are found again: the greatest
/// divisor is the factor, and of the lengths that models were made for one gives all the others.
fn llama3(header: &Header, arch: &str, factors: &[f32]) -> Result<Value, EngineError> {
    let theta = header.float(&format!("{arch}.rope.freq_base"))?.unwrap_or(10_000.0);
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let fits = |length: f64| {
        factors.iter().enumerate().all(|(index, divisor)| {
            #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
            let share = index as f64 / factors.len() as f64;
            (llama3_divisor(theta.powf(-share), factor, length) / f64::from(*divisor) - 1.0).abs() < 1e-3
        })
    };
    let length = (5..20).map(|bits| 1u32 << bits).find(|length| fits(f64::from(*length)));
    let length = length.ok_or_else(|| {
        EngineError::format(&header.file, "tensor `rope_freqs.weight`: its divisors are not those of Llama 3's scaling")
    })?;
    Ok(json!({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
        "original_max_position_embeddings": length
    }))
}

/// Llama 3's own: frequencies that turn less than `LOW` times in the original length are divided by the whole factor, those
/// that turn more than `HIGH` times by nothing.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;

fn llama3_divisor(frequency: f64, factor: f64, length: f64) -> f64 {
    let turns = length * frequency / std::f64::consts::TAU;
    let share = ((turns - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
    1.0 / ((1.0 - share) / factor + share)
}
