//! A Llama's weights as a GGUF file, every matrix but the embedding in one format.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use lockstep_engine::config::{Architecture, ModelConfig};
use lockstep_engine::{EngineError, ModelFiles};

/// Name in a GGUF file of each tensor of a block.
const IN_BLOCK: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Writes the model at `files`, a Llama in one file, to `path`. Its vocabulary has no texts: ids are what is computed with.
///
/// # Errors
/// Those of reading, encoding and writing.
pub fn write(files: &dyn ModelFiles, config: &ModelConfig, format: GgmlDType, path: &Path) -> Result<(), EngineError> {
    if config.architecture != Architecture::Llama {
        return Err(EngineError::Usage("only a Llama can be written as a GGUF file here".into()));
    }
    let stored = candle_core::safetensors::load_buffer(&files.require("model.safetensors")?, &Device::Cpu)?;
    let mut tensors = Vec::new();
    let table = matrix(&stored, "model.embed_tokens.weight")?;
    let output = if config.tie_word_embeddings { table.clone() } else { matrix(&stored, "lm_head.weight")? };
    tensors.push(("token_embd.weight".to_owned(), QTensor::quantize(&table, GgmlDType::F32)?));
    tensors.push(("output.weight".to_owned(), QTensor::quantize(&output, format)?));
    let norm = matrix(&stored, "model.norm.weight")?;
    tensors.push(("output_norm.weight".to_owned(), QTensor::quantize(&norm, GgmlDType::F32)?));
    for layer in 0..config.num_layers {
        for (ours, theirs) in IN_BLOCK {
            let weight = matrix(&stored, &format!("model.layers.{layer}.{ours}.weight"))?;
            let weight = match theirs {
                "attn_q" => for_neighbours(&weight, config.num_heads)?,
                "attn_k" => for_neighbours(&weight, config.num_kv_heads)?,
                _ => weight,
            };
            let format = if weight.rank() == 1 { GgmlDType::F32 } else { format };
            tensors.push((format!("blk.{layer}.{theirs}.weight"), QTensor::quantize(&weight, format)?));
        }
    }
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let metadata = metadata(config);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (*name, value)).collect();
    let usage = |error: std::io::Error| EngineError::Usage(error.to_string());
    Ok(gguf_file::write(&mut std::fs::File::create(path).map_err(usage)?, &metadata, &tensors)?)
}

fn matrix(stored: &HashMap<String, Tensor>, name: &str) -> Result<Tensor, EngineError> {
    let missing = || EngineError::Missing { file: name.into(), origin: "model.safetensors".into() };
    Ok(stored.get(name).ok_or_else(missing)?.to_dtype(DType::F32)?)
}

/// The two halves of each head take turns.
fn for_neighbours(weight: &Tensor, heads: usize) -> Result<Tensor, EngineError> {
    let (rows, columns) = weight.dims2()?;
    let halves = weight.reshape((heads, 2, rows / heads / 2, columns))?;
    Ok(halves.transpose(1, 2)?.contiguous()?.reshape((rows, columns))?)
}

fn metadata(config: &ModelConfig) -> Vec<(&'static str, Value)> {
    let number = |value: usize| Value::U32(value as u32);
    let tokens = (0..config.vocab_size).map(|id| Value::String(format!("<{id}>"))).collect();
    let scores = vec![Value::F32(0.0); config.vocab_size];
    vec![
        ("general.architecture", Value::String("llama".into())),
        ("llama.embedding_length", number(config.hidden_size)),
        ("llama.feed_forward_length", number(config.intermediate_size)),
        ("llama.block_count", number(config.num_layers)),
        ("llama.attention.head_count", number(config.num_heads)),
        ("llama.attention.head_count_kv", number(config.num_kv_heads)),
        ("llama.attention.key_length", number(config.head_dim)),
        ("llama.context_length", number(config.context_length)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps as f32)),
        ("llama.rope.freq_base", Value::F32(config.ropes[0].theta as f32)),
        ("tokenizer.ggml.model", Value::String("llama".into())),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.scores", Value::Array(scores)),
    ]
}
