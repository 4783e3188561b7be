//! `config.json` as it is written, in the spellings of transformers 4 and 5.

use candle_core::DType;
use lockstep_kernels::Activation;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Architecture;
use super::rope::{Place, RawRope, Rope};

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
    head_dim: Option<usize>,
    pub vocab_size: usize,
    #[serde(default = "default_context")]
    pub max_position_embeddings: usize,
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    /// In no file of transformers: what GGUF files say by having added it.
    rms_norm_offset: Option<f32>,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    tie_word_embeddings: Option<bool>,
    pub bos_token_id: Option<TokenIds>,
    pub eos_token_id: Option<TokenIds>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    partial_rotary_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    torch_dtype: Option<String>,
    #[serde(rename = "dtype")]
    new_dtype: Option<String>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    pub(super) use_sliding_window: Option<bool>,
    /// The outer level says whether it is there, the inner one whether it is `null`: the same below.
    #[serde(default, deserialize_with = "present")]
    pub(super) sliding_window: Option<Option<usize>>,
    pub(super) sliding_window_pattern: Option<usize>,
    pub(super) max_window_layers: Option<usize>,
    pub(super) layer_types: Option<Vec<String>>,
    pub(super) num_experts: Option<usize>,
    pub(super) num_local_experts: Option<usize>,
    pub(super) num_experts_per_tok: Option<usize>,
    pub(super) moe_intermediate_size: Option<usize>,
    #[serde(default)]
    pub(super) norm_topk_prob: bool,
    pub(super) decoder_sparse_step: Option<usize>,
    pub(super) mlp_only_layers: Option<Vec<usize>>,
    query_pre_attn_scalar: Option<f64>,
    #[serde(default, deserialize_with = "present")]
    attn_logit_softcapping: Option<Option<f32>>,
    #[serde(default, deserialize_with = "present")]
    final_logit_softcapping: Option<Option<f32>>,
    use_bidirectional_attention: Option<bool>,
    quantization_config: Option<Value>,
}

/// The text part of a multimodal Gemma 3: fields that are not there are those of transformers' `Gemma3TextConfig`.
pub fn text_part(mut whole: Value) -> Value {
    let usual = [
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("vocab_size", 262_208),
        ("max_position_embeddings", 131_072),
    ];
    let mut text = whole.get_mut("text_config").map(Value::take).unwrap_or_default();
    if let Some(fields) = text.as_object_mut() {
        for (name, value) in usual {
            fields.entry(name).or_insert(value.into());
        }
        for name in ["dtype", "torch_dtype", "bos_token_id", "eos_token_id", "quantization_config"] {
            if let Some(value) = whole.get_mut(name) {
                fields.entry(name).or_insert(value.take());
            }
        }
    }
    text
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

/// Tells a field that is `null` from one that is absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// Caps on attention scores and on logits that are none.
type SoftCaps = (Option<f32>, Option<f32>);

impl RawConfig {
    /// Refuses what would silently compute something else.
    pub fn check_supported(&self) -> Result<(), String> {
        if self.use_bidirectional_attention == Some(true) {
            return Err("use_bidirectional_attention: only causal attention is supported".into());
        }
        if self.quantization_config.as_ref().is_some_and(|config| !config.is_null()) {
            return Err("quantization_config: quantized checkpoints are not read; use one in f32, bf16 or f16".into());
        }
        Ok(())
    }

    /// What the gate of the feed-forward part passes through.
    pub fn activation(&self, architecture: Architecture) -> Result<Activation, String> {
        let (name, given, usual) = if architecture.is_gemma() {
            ("hidden_activation", &self.hidden_activation, "gelu_pytorch_tanh")
        } else {
            ("hidden_act", &self.hidden_act, "silu")
        };
        match given.as_deref().unwrap_or(usual) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            other => Err(format!("{name} `{other}` is not supported; supported: silu, gelu_pytorch_tanh")),
        }
    }

    /// What is added to the weights of norms.
    pub fn norm_offset(&self, architecture: Architecture) -> Result<f32, String> {
        let usual = if architecture.is_gemma() { 1.0 } else { 0.0 };
        match self.rms_norm_offset.unwrap_or(usual) {
            offset if offset.is_finite() => Ok(offset),
            offset => Err(format!("rms_norm_offset is {offset}: it must be a number")),
        }
    }

    /// Gemmas tie unless told otherwise, others do not.
    pub fn tie_word_embeddings(&self, architecture: Architecture) -> bool {
        self.tie_word_embeddings.unwrap_or(architecture.is_gemma())
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

    /// Size of one head; 0 where it cannot be told.
    pub fn head_dim(&self, architecture: Architecture) -> usize {
        let even_share = || self.hidden_size.checked_div(self.num_attention_heads).unwrap_or(0);
        match self.head_dim {
            Some(size) => size,
            None if architecture.is_gemma() => 256,
            None => even_share(),
        }
    }

    /// Factor on `q · k`.
    pub fn attention_scale(&self, architecture: Architecture) -> Result<f32, String> {
        #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
        let scalar = match self.query_pre_attn_scalar {
            _ if !architecture.is_gemma() => self.head_dim(architecture) as f64,
            scalar => scalar.unwrap_or(256.0),
        };
        #[expect(clippy::cast_possible_truncation, reason = "rounded once")]
        let scale = (1.0 / scalar.sqrt()) as f32;
        if scale.is_normal() && scale > 0.0 {
            return Ok(scale);
        }
        Err(format!("query_pre_attn_scalar is {scalar}: it must be above 0"))
    }

    /// Caps on attention scores and on logits.
    pub fn soft_caps(&self, architecture: Architecture) -> Result<SoftCaps, String> {
        let (attention, logits) = match architecture {
            // What transformers takes where the fields are absent; `null` means none.
            Architecture::Gemma2 => {
                (self.attn_logit_softcapping.unwrap_or(Some(50.0)), self.final_logit_softcapping.unwrap_or(Some(30.0)))
            }
            Architecture::Gemma3 => (None, self.final_logit_softcapping.flatten()),
            _ => (None, None),
        };
        for (name, cap) in [("attn_logit_softcapping", attention), ("final_logit_softcapping", logits)] {
            if let Some(cap) = cap.filter(|cap| !(cap.is_normal() && *cap > 0.0)) {
                return Err(format!("{name} is {cap}: it must be above 0"));
            }
        }
        Ok((attention, logits))
    }

    /// Whether the layers that slide turn by a RoPE of their own.
    pub(super) fn has_local_rope(&self, architecture: Architecture) -> bool {
        architecture == Architecture::Gemma3 || self.rope_fields().is_some_and(RawRope::is_by_layer_type)
    }

    fn rope_fields(&self) -> Option<&RawRope> {
        self.rope_parameters.as_ref().or(self.rope_scaling.as_ref())
    }

    /// The model's RoPE, and after it the one of layers that slide, where they have their own.
    pub fn ropes(&self, architecture: Architecture) -> Result<Vec<Rope>, String> {
        let fields = self.rope_fields();
        let (global, local) = match fields {
            Some(fields) if fields.is_by_layer_type() => fields.by_layer_type(),
            fields => (fields, None),
        };
        let place = |theta: Option<f64>, usual: f64| Place {
            theta: theta.unwrap_or(usual),
            partial: self.partial_rotary_factor,
            head_dim: self.head_dim(architecture),
            context_length: self.max_position_embeddings,
            original_context_length: self.original_max_position_embeddings,
            // Phi-3's first versions call LongRoPE `su` and `yarn`.
            su_is_longrope: architecture == Architecture::Phi3,
        };
        let usual = match architecture {
            Architecture::Gemma3 | Architecture::Mixtral => 1_000_000.0,
            _ => 10_000.0,
        };
        let mut ropes = vec![Rope::new(global, &place(self.rope_theta, usual))?];
        if self.has_local_rope(architecture) {
            let theta = if architecture == Architecture::Gemma3 { self.rope_local_base_freq } else { self.rope_theta };
            ropes.push(Rope::new(local, &place(theta, 10_000.0))?);
        }
        Ok(ropes)
    }
}
