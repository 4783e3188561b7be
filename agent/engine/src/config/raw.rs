//! `config.json` as it is written, in the spellings of transformers 4 and 5.

use candle_core::DType;
use serde::Deserialize;
use serde_json::Value;

use super::rope::{RawRope, Rope};

/// What must be known before the rest can be judged.
#[derive(Deserialize)]
pub struct Heading {
    #[serde(default)]
    pub architectures: Vec<String>,
}

/// Fields that the supported architectures use.
#[derive(Deserialize)]
pub struct RawConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub vocab_size: usize,
    #[serde(default = "default_context")]
    pub max_position_embeddings: usize,
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    pub bos_token_id: Option<TokenIds>,
    pub eos_token_id: Option<TokenIds>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    torch_dtype: Option<String>,
    #[serde(rename = "dtype")]
    new_dtype: Option<String>,
    hidden_act: Option<String>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
}

/// One id or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    One(u32),
    Several(Vec<u32>),
}

impl TokenIds {
    pub fn all(&self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![*id],
            Self::Several(ids) => ids.clone(),
        }
    }

    pub fn first(&self) -> Option<u32> {
        self.all().first().copied()
    }
}

/// The defaults of transformers' `LlamaConfig`.
fn default_context() -> usize {
    2048
}

fn default_eps() -> f64 {
    1e-6
}

impl RawConfig {
    /// Refuses what would silently compute something else.
    pub fn check_supported(&self) -> Result<(), String> {
        if let Some(act) = self.hidden_act.as_deref().filter(|act| !matches!(*act, "silu" | "swish")) {
            return Err(format!("hidden_act `{act}` is not supported; supported: silu"));
        }
        if self.use_sliding_window == Some(true) {
            return Err("use_sliding_window: sliding attention is not supported for this architecture".into());
        }
        if let Some(kind) = self.layer_types.iter().flatten().find(|kind| *kind != "full_attention") {
            return Err(format!("layer_types holds `{kind}`; supported: full_attention"));
        }
        if self.quantization_config.as_ref().is_some_and(|config| !config.is_null()) {
            return Err("quantization_config: quantized checkpoints are not read; use one in f32, bf16 or f16".into());
        }
        Ok(())
    }

    pub fn dtype(&self) -> Result<Option<DType>, String> {
        let Some(name) = self.new_dtype.as_deref().or(self.torch_dtype.as_deref()) else { return Ok(None) };
        match name.strip_prefix("torch.").unwrap_or(name) {
            "float32" => Ok(Some(DType::F32)),
            "bfloat16" => Ok(Some(DType::BF16)),
            "float16" => Ok(Some(DType::F16)),
            "auto" => Ok(None),
            other => Err(format!("dtype `{other}` is not supported; supported: float32, bfloat16, float16")),
        }
    }

    pub fn rope(&self) -> Result<Rope, String> {
        let head_dim =
            self.head_dim.unwrap_or_else(|| self.hidden_size.checked_div(self.num_attention_heads).unwrap_or(0));
        let parameters = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        Rope::new(parameters, self.rope_theta, self.partial_rotary_factor, head_dim)
    }
}
