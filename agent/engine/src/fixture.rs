//! Models for unit tests: a temporary folder with a small Llama whose weights count through a fixed pattern.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::config::ModelConfig;

/// A model folder that is deleted with the value.
pub struct FixtureModel {
    folder: tempfile::TempDir,
    source: String,
}

impl FixtureModel {
    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn patch(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.path(name)).unwrap();
        change(&mut bytes);
        self.write(name, &bytes);
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    pub fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Makes a named pipe that no process writes to.
pub fn make_pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Makes a folder that holds `model.safetensors` with these tensors and no configuration.
pub fn folder(tensors: &[(&str, &Tensor)]) -> FixtureModel {
    let folder = tempfile::tempdir().unwrap();
    let tensors: std::collections::HashMap<_, _> =
        tensors.iter().map(|(name, tensor)| ((*name).to_owned(), (*tensor).clone())).collect();
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    let source = format!("file://{}", folder.path().display());
    FixtureModel { folder, source }
}

/// Returns the `config.json` of [`tiny_llama`].
pub fn tiny_json() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 24, "intermediate_size": 34, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 101,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "torch_dtype": "float32",
        "bos_token_id": 1, "eos_token_id": 2
    })
}

pub fn tiny_config() -> ModelConfig {
    ModelConfig::parse(tiny_json().to_string().as_bytes()).unwrap()
}

/// Makes a Llama of two layers in f32, untrained.
pub fn tiny_llama() -> FixtureModel {
    let config = tiny_config();
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), matrix(config.vocab_size, hidden, 1)),
        ("lm_head.weight".to_owned(), matrix(config.vocab_size, hidden, 2)),
        ("model.norm.weight".to_owned(), ones(hidden)),
    ];
    for layer in 0..config.num_layers {
        let shapes = [
            ("self_attn.q_proj", q, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, q),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ];
        for (number, (name, rows, columns)) in shapes.into_iter().enumerate() {
            let tensor = matrix(rows, columns, layer * 10 + number + 3);
            tensors.push((format!("model.layers.{layer}.{name}.weight"), tensor));
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), ones(hidden)));
        }
    }
    let named: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let model = folder(&named);
    model.write("config.json", tiny_json().to_string().as_bytes());
    model.write("tokenizer.json", b"{}");
    model
}

fn ones(size: usize) -> Tensor {
    Tensor::ones(size, DType::F32, &Device::Cpu).unwrap()
}

/// Makes a matrix of values in (-0.5, 0.5) without a repeated pattern.
fn matrix(rows: usize, columns: usize, salt: usize) -> Tensor {
    let value = |i: usize| {
        let bits = ((i + 1).wrapping_mul(2_654_435_761).wrapping_add(salt.wrapping_mul(40_503)) >> 7) % 10_007;
        bits as f32 / 10_007.0 - 0.5
    };
    Tensor::from_vec((0..rows * columns).map(value).collect::<Vec<_>>(), (rows, columns), &Device::Cpu).unwrap()
}
