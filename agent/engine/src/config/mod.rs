//! A model's `config.json` as Hugging Face writes it, checked and turned into the numbers that layers need.
//!
//! Nothing downstream reads JSON: a [`ModelConfig`] that exists is consistent (no zero sizes, heads divide, sizes
//! below bounds that no real model reaches). The meaning of a key in a family stands in that family's file, in
//! `families`.

mod error;
mod families;
mod generation;
mod layer;
mod quantization;
mod raw;
mod rope;

pub use error::ConfigError;
pub use families::Architecture;
pub(crate) use families::{BlockKind, GgufFacts, GgufValue, GgufVariant, GgufWindow};
pub use generation::{GENERATION_FILE, GenerationDefaults};
pub use layer::{LayerConfig, MoeConfig};
pub(crate) use quantization::PackedLayout;
pub use rope::{LongRope, Rope, RopeScaling, Yarn};

use candle_core::DType;
use lockstep_kernels::Activation;
use serde::de::DeserializeOwned;

use crate::EngineError;
use crate::json;
use crate::source::ModelFiles;
use families::FamilyFacts;
use raw::RawConfig;

/// Name of the file.
pub const CONFIG_FILE: &str = "config.json";

/// Bounds on sizes, an order of magnitude above the largest known model. A corrupt file cannot ask for more memory.
const MAX_HIDDEN: usize = 1 << 18;
const MAX_LAYERS: usize = 1 << 11;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 11;
const MAX_VOCAB: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 25;
pub(crate) const MAX_EXPERTS: usize = 1 << 12;

/// A checked model configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub architecture: Architecture,
    /// Prefix of the text part's tensors in a multimodal checkpoint.
    pub weights_prefix: Option<&'static str>,
    pub hidden_size: usize,
    /// Intermediate size of a dense feed-forward part.
    pub intermediate_size: usize,
    pub num_layers: usize,
    /// The layers, `num_layers` of them.
    pub layers: Vec<LayerConfig>,
    /// The mixture of experts, if some layers are sparse.
    pub moe: Option<MoeConfig>,
    pub num_heads: usize,
    /// Number of KV heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Size of one head; even.
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub context_length: usize,
    pub rms_norm_eps: f64,
    /// Number that is added to the weights of every norm: 1 for Gemmas, 0 if a file has it in them already.
    pub norm_offset: f32,
    /// RoPEs of the model; each layer names its own.
    pub ropes: Vec<Rope>,
    /// Factor on `q · k`.
    pub attention_scale: f32,
    /// Soft cap on attention scores, which become `cap · tanh(score / cap)`.
    pub attention_soft_cap: Option<f32>,
    /// Soft cap on logits.
    pub logit_soft_cap: Option<f32>,
    /// Factor on embeddings, if they are scaled.
    pub embedding_scale: Option<f32>,
    /// Activation of the feed-forward part's gate.
    pub activation: Activation,
    /// Tensors of the attention.
    pub attention: AttentionTensors,
    /// Tensors of a dense feed-forward part.
    pub mlp: MlpTensors,
    /// The output projection is the embedding table.
    pub tie_word_embeddings: bool,
    /// Type that the checkpoint says it is stored in.
    pub dtype: Option<DType>,
    pub eos_token_ids: Vec<u32>,
}

/// Tensors of a layer's attention beyond the four projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionTensors {
    /// Biases on queries, keys and values.
    pub qkv_bias: bool,
    /// Bias on the output.
    pub o_bias: bool,
    /// Norms of queries and keys. Each norm covers one head at a time, before the head turns.
    pub qk_norm: bool,
    /// Queries, keys and values are one matrix, `qkv_proj`.
    pub fused_qkv: bool,
}

/// Tensors of a layer's dense feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MlpTensors {
    pub bias: bool,
    /// Gate and up projection are one matrix, `gate_up_proj`.
    pub fused_gate_up: bool,
}

impl ModelConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`EngineError::Missing`], and those of [`ModelConfig::parse`].
    pub fn from_files(files: &dyn ModelFiles) -> Result<Self, EngineError> {
        Self::parse(&files.require(CONFIG_FILE)?)
    }

    /// Checks the text of a `config.json`.
    ///
    /// # Errors
    /// [`EngineError::Format`] for text that is no such JSON, [`EngineError::Config`] naming the key,
    /// [`EngineError::Architecture`].
    pub fn parse(text: &[u8]) -> Result<Self, EngineError> {
        let heading: raw::Heading = parse_json(text)?;
        PackedLayout::parse(text)?;
        let (architecture, multimodal) = Architecture::parse(&heading.architectures)?;
        let raw: RawConfig = match multimodal {
            Some(multimodal) => json::from_value(CONFIG_FILE, raw::take_text_part(parse_json(text)?, multimodal))?,
            None => parse_json(text)?,
        };
        let weights_prefix = multimodal.map(|multimodal| multimodal.weights_prefix);
        Self::check(&raw, architecture, weights_prefix)
            .map_err(|cause| EngineError::Config { file: CONFIG_FILE.into(), cause })
    }

    fn check(
        raw: &RawConfig,
        architecture: Architecture,
        weights_prefix: Option<&'static str>,
    ) -> Result<Self, ConfigError> {
        let family = architecture.facts();
        raw.check_supported()?;
        raw.check_sizes(family)?;
        let config = Self {
            architecture,
            weights_prefix,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_layers: raw.num_hidden_layers,
            layers: raw.layers(family)?,
            moe: raw.moe(family)?,
            num_heads: raw.num_attention_heads,
            num_kv_heads: raw.num_kv_heads(family),
            head_dim: raw.head_dim(family),
            vocab_size: raw.vocab_size,
            context_length: raw.context_length(family),
            rms_norm_eps: raw.rms_norm_eps(family),
            norm_offset: raw.norm_offset(family)?,
            ropes: raw.ropes(family)?,
            attention_scale: raw.attention_scale(family)?,
            attention_soft_cap: raw.attention_soft_cap(family)?,
            logit_soft_cap: raw.logit_soft_cap(family)?,
            embedding_scale: raw.embedding_scale(family),
            activation: raw.activation(family)?,
            attention: AttentionTensors {
                qkv_bias: raw.attention_bias(family.attention.qkv_bias),
                o_bias: raw.attention_bias(family.attention.o_bias),
                qk_norm: family.attention.qk_norm,
                fused_qkv: family.attention.fused_qkv,
            },
            mlp: MlpTensors { bias: raw.mlp_bias(family.mlp.bias), fused_gate_up: family.mlp.fused_gate_up },
            tie_word_embeddings: raw.tie_word_embeddings(family),
            dtype: raw.dtype()?,
            eos_token_ids: raw.eos_token_id.as_ref().map(raw::TokenIds::all).unwrap_or_default(),
        };
        config.check_moe()?;
        Ok(config)
    }

    /// Returns the number of query heads that share one KV head.
    pub fn queries_per_kv(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    fn check_moe(&self) -> Result<(), ConfigError> {
        let Some(moe) = &self.moe else { return Ok(()) };
        check_size("the number of experts", moe.num_experts, MAX_EXPERTS)?;
        check_size("moe_intermediate_size", moe.intermediate_size, MAX_HIDDEN * 8)
    }
}

fn parse_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, EngineError> {
    json::parse(CONFIG_FILE, text)
}

impl RawConfig {
    /// Bounds every size before anything is made of that many parts.
    fn check_sizes(&self, family: &FamilyFacts) -> Result<(), ConfigError> {
        let head_dim = self.head_dim(family);
        let sizes = [
            ("hidden_size", self.hidden_size, MAX_HIDDEN),
            ("intermediate_size", self.intermediate_size, MAX_HIDDEN * 8),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_HEADS),
            ("num_key_value_heads", self.num_kv_heads(family), MAX_HEADS),
            ("head_dim", head_dim, MAX_HEAD_DIM),
            ("vocab_size", self.vocab_size, MAX_VOCAB),
            ("max_position_embeddings", self.context_length(family), MAX_CONTEXT),
        ];
        sizes.into_iter().try_for_each(|(key, size, most)| check_size(key, size, most))?;
        let (heads, kv_heads) = (self.num_attention_heads, self.num_kv_heads(family));
        if !heads.is_multiple_of(kv_heads) {
            return Err(ConfigError::UnevenHeads { heads, kv_heads });
        }
        if !head_dim.is_multiple_of(2) {
            return Err(ConfigError::out_of_bounds("head_dim", head_dim, "even, for rotary embeddings"));
        }
        let eps = self.rms_norm_eps(family);
        if !(eps > 0.0 && eps < 1.0) {
            return Err(ConfigError::out_of_bounds("rms_norm_eps", eps, "above 0 and below 1"));
        }
        Ok(())
    }
}

fn check_size(key: &'static str, size: usize, most: usize) -> Result<(), ConfigError> {
    if size == 0 || size > most {
        return Err(ConfigError::out_of_bounds(key, size, format!("from 1 to {most}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
