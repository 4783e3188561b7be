//! A model's `config.json` as Hugging Face writes it, checked and turned into what the layers need.
//!
//! Nothing downstream reads JSON: a [`ModelConfig`] that exists is consistent (no zero sizes, heads divide, sizes
//! below bounds that no real model reaches).

mod generation;
mod raw;
mod rope;

pub use generation::GenerationDefaults;
pub use rope::{Rope, RopeScaling};

use candle_core::DType;

use crate::EngineError;
use crate::source::ModelFiles;
use raw::RawConfig;

/// Name of the file.
pub const CONFIG_FILE: &str = "config.json";

/// Bounds on sizes, an order of magnitude above the largest known model, so that a corrupt file cannot ask for the moon.
const MAX_HIDDEN: usize = 1 << 18;
const MAX_LAYERS: usize = 1 << 11;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 11;
const MAX_VOCAB: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 25;

/// Model families that are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2, Llama 3.x and whatever else says `LlamaForCausalLM`.
    Llama,
    /// Qwen3, dense.
    Qwen3,
}

impl Architecture {
    const ALL: [Self; 2] = [Self::Llama, Self::Qwen3];

    /// As `config.json` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    fn parse(names: &[String]) -> Result<Self, EngineError> {
        let known = |name: &String| Self::ALL.into_iter().find(|architecture| architecture.name() == name);
        names.iter().find_map(known).ok_or_else(|| EngineError::Architecture {
            found: names.join(", "),
            supported: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// A checked model configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub architecture: Architecture,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    /// Divides `num_heads`.
    pub num_kv_heads: usize,
    /// Even.
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub context_length: usize,
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Biases on the attention's projections.
    pub attention_bias: bool,
    /// Biases in the feed-forward part.
    pub mlp_bias: bool,
    /// The output projection is the embedding table.
    pub tie_word_embeddings: bool,
    /// What the checkpoint says it is stored in.
    pub dtype: Option<DType>,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`EngineError::Missing`], [`EngineError::Format`] naming the field or its place, [`EngineError::Architecture`].
    pub fn read(files: &dyn ModelFiles) -> Result<Self, EngineError> {
        Self::parse(&files.require(CONFIG_FILE)?)
    }

    /// Checks the text of a `config.json`.
    ///
    /// # Errors
    /// [`EngineError::Format`] naming the field or its place, [`EngineError::Architecture`].
    pub fn parse(json: &[u8]) -> Result<Self, EngineError> {
        let wrong = |reason: String| EngineError::format(CONFIG_FILE, reason);
        let heading: raw::Heading = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        let architecture = Architecture::parse(&heading.architectures)?;
        let raw: RawConfig = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
        raw.check_supported().map_err(wrong)?;
        let head_dim =
            raw.head_dim.unwrap_or_else(|| raw.hidden_size.checked_div(raw.num_attention_heads).unwrap_or(0));
        let config = Self {
            architecture,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_layers: raw.num_hidden_layers,
            num_heads: raw.num_attention_heads,
            num_kv_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
            head_dim,
            vocab_size: raw.vocab_size,
            context_length: raw.max_position_embeddings,
            rms_norm_eps: raw.rms_norm_eps,
            rope: raw.rope().map_err(wrong)?,
            attention_bias: raw.attention_bias,
            mlp_bias: raw.mlp_bias,
            tie_word_embeddings: raw.tie_word_embeddings,
            dtype: raw.dtype().map_err(wrong)?,
            bos_token_id: raw.bos_token_id.as_ref().and_then(raw::TokenIds::first),
            eos_token_ids: raw.eos_token_id.as_ref().map(raw::TokenIds::all).unwrap_or_default(),
        };
        config.check().map_err(wrong)?;
        Ok(config)
    }

    /// Query heads that share one KV head.
    pub fn queries_per_kv(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    fn check(&self) -> Result<(), String> {
        let sizes = [
            ("hidden_size", self.hidden_size, MAX_HIDDEN),
            ("intermediate_size", self.intermediate_size, MAX_HIDDEN * 8),
            ("num_hidden_layers", self.num_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_heads, MAX_HEADS),
            ("num_key_value_heads", self.num_kv_heads, MAX_HEADS),
            ("head_dim", self.head_dim, MAX_HEAD_DIM),
            ("vocab_size", self.vocab_size, MAX_VOCAB),
            ("max_position_embeddings", self.context_length, MAX_CONTEXT),
        ];
        for (name, size, most) in sizes {
            if size == 0 || size > most {
                return Err(format!("{name} is {size}: it must be from 1 to {most}"));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return Err(format!(
                "num_attention_heads ({}) is no multiple of num_key_value_heads ({})",
                self.num_heads, self.num_kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim is {}: rotary embeddings need an even one", self.head_dim));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(format!("rms_norm_eps is {}: it must be above 0 and below 1", self.rms_norm_eps));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn llama() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": [2, 3]
        })
    }

    fn parse(value: &Value) -> Result<ModelConfig, EngineError> {
        ModelConfig::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_llama_reads_with_its_defaults() {
        let config = parse(&llama()).unwrap();
        assert_eq!(config.architecture, Architecture::Llama);
        assert_eq!((config.head_dim, config.queries_per_kv()), (16, 2));
        assert_eq!(config.dtype, Some(DType::BF16));
        assert_eq!((config.bos_token_id, config.eos_token_ids.as_slice()), (Some(1), [2, 3].as_slice()));
        assert_eq!(config.rope, Rope { theta: 10_000.0, rotary_dim: 16, scaling: RopeScaling::None });
        assert!(!config.tie_word_embeddings);
    }

    #[test]
    fn both_spellings_of_rope_mean_the_same() {
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        let mut old = llama();
        old["rope_theta"] = json!(500000.0);
        old["rope_scaling"] = scaling.clone();
        let mut new = llama();
        new["rope_parameters"] = scaling;
        new["rope_parameters"]["rope_theta"] = json!(500000.0);
        let expected = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context_length: 64,
        };
        for value in [old, new] {
            let rope = parse(&value).unwrap().rope;
            assert_eq!((rope.theta, rope.scaling), (500_000.0, expected));
        }
    }

    #[test]
    fn wrong_values_are_named() {
        let cases = [
            ("architectures", json!(["GPT2LMHeadModel"]), "supported: LlamaForCausalLM, Qwen3ForCausalLM"),
            ("hidden_size", json!(null), "invalid type: null, expected usize at line 1"),
            ("hidden_size", json!("64"), "expected usize"),
            ("hidden_size", json!(0), "hidden_size is 0"),
            ("num_attention_heads", json!(0), "num_attention_heads is 0"),
            ("num_key_value_heads", json!(3), "num_attention_heads (4) is no multiple of num_key_value_heads (3)"),
            ("num_key_value_heads", json!(0), "num_key_value_heads is 0"),
            ("head_dim", json!(15), "head_dim is 15"),
            ("vocab_size", json!(1_000_000_000), "vocab_size is 1000000000"),
            ("rms_norm_eps", json!(-1.0), "rms_norm_eps is -1"),
            ("rms_norm_eps", json!(0.0), "rms_norm_eps is 0"),
            ("hidden_act", json!("gelu"), "hidden_act `gelu`"),
            ("torch_dtype", json!("int8"), "dtype `int8`"),
            ("quantization_config", json!({"quant_method": "gptq"}), "quantization_config"),
            ("use_sliding_window", json!(true), "sliding"),
            ("layer_types", json!(["full_attention", "sliding_attention"]), "sliding_attention"),
            ("rope_scaling", json!({"type": "yarn", "factor": 2.0}), "rope type `yarn`"),
            ("rope_scaling", json!({"type": "linear"}), "factor"),
            ("rope_scaling", json!({"type": "linear", "factor": 0.0}), "factor"),
            ("rope_theta", json!(-5.0), "rope_theta"),
        ];
        for (field, value, expected) in cases {
            let mut config = llama();
            config[field] = value;
            let message = parse(&config).expect_err(field).to_string();
            assert!(message.contains(expected), "{field}: {message}");
        }
        for text in ["", "[]", "{", "{\"architectures\": []}"] {
            assert!(ModelConfig::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
