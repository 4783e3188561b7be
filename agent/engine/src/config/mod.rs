//! A model's `config.json` as Hugging Face writes it, checked and turned into what the layers need.
//!
//! Nothing downstream reads JSON: a [`ModelConfig`] that exists is consistent (no zero sizes, heads divide, sizes
//! below bounds that no real model reaches).

mod architecture;
mod generation;
mod layer;
mod raw;
mod rope;

pub use architecture::Architecture;
pub use generation::GenerationDefaults;
pub use layer::{LayerConfig, MoeConfig};
pub use rope::{LongRope, Rope, RopeScaling, Yarn};

use candle_core::DType;
use lockstep_kernels::Activation;

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
pub(crate) const MAX_EXPERTS: usize = 1 << 12;

/// A checked model configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub architecture: Architecture,
    /// Where the weights of the text part are in a multimodal checkpoint.
    pub text_place: Option<&'static str>,
    pub hidden_size: usize,
    /// Of a dense feed-forward part.
    pub intermediate_size: usize,
    pub num_layers: usize,
    /// How the layers differ; `num_layers` of them.
    pub layers: Vec<LayerConfig>,
    /// Where some layers are sparse.
    pub moe: Option<MoeConfig>,
    pub num_heads: usize,
    /// Divides `num_heads`.
    pub num_kv_heads: usize,
    /// Even.
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub context_length: usize,
    pub rms_norm_eps: f64,
    /// Is added to the weights of every norm: 1 for Gemmas, 0 where a file has it in them already.
    pub norm_offset: f32,
    /// What layers turn by; each names its own.
    pub ropes: Vec<Rope>,
    /// Factor on `q · k`.
    pub attention_scale: f32,
    /// Attention scores become `cap · tanh(score / cap)`.
    pub attention_soft_cap: Option<f32>,
    /// The same for logits.
    pub logit_soft_cap: Option<f32>,
    /// Factor on embeddings, where they are scaled.
    pub embedding_scale: Option<f32>,
    /// Of the feed-forward part's gate.
    pub activation: Activation,
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
        let multimodal =
            architecture.multimodal_name().is_some_and(|name| heading.architectures.iter().any(|n| n == name));
        let raw: RawConfig = match multimodal {
            true => serde_json::from_slice(json).and_then(|whole| serde_json::from_value(raw::text_part(whole))),
            false => serde_json::from_slice(json),
        }
        .map_err(|error| wrong(error.to_string()))?;
        raw.check_supported().map_err(wrong)?;
        raw.check_sizes(architecture).map_err(wrong)?;
        let config = Self::from_raw(&raw, architecture).map_err(wrong)?;
        Ok(Self { text_place: multimodal.then_some("language_model"), ..config })
    }

    /// What a configuration of sizes within bounds says.
    fn from_raw(raw: &RawConfig, architecture: Architecture) -> Result<Self, String> {
        let (attention_soft_cap, logit_soft_cap) = raw.soft_caps(architecture)?;
        #[expect(clippy::cast_precision_loss, reason = "hidden sizes are below 2^24")]
        let root_of_hidden = (raw.hidden_size as f32).sqrt();
        let config = Self {
            architecture,
            text_place: None,
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_layers: raw.num_hidden_layers,
            layers: raw.layers(architecture)?,
            moe: raw.moe(architecture)?,
            num_heads: raw.num_attention_heads,
            num_kv_heads: raw.num_kv_heads(),
            head_dim: raw.head_dim(architecture),
            vocab_size: raw.vocab_size,
            context_length: raw.max_position_embeddings,
            rms_norm_eps: raw.rms_norm_eps,
            norm_offset: raw.norm_offset(architecture)?,
            ropes: raw.ropes(architecture)?,
            attention_scale: raw.attention_scale(architecture)?,
            attention_soft_cap,
            logit_soft_cap,
            embedding_scale: architecture.is_gemma().then_some(root_of_hidden),
            activation: raw.activation(architecture)?,
            attention_bias: raw.attention_bias,
            mlp_bias: raw.mlp_bias,
            tie_word_embeddings: raw.tie_word_embeddings(architecture),
            dtype: raw.dtype()?,
            bos_token_id: raw.bos_token_id.as_ref().and_then(raw::TokenIds::first),
            eos_token_ids: raw.eos_token_id.as_ref().map(raw::TokenIds::all).unwrap_or_default(),
        };
        config.check_moe()?;
        Ok(config)
    }

    /// Query heads that share one KV head.
    pub fn queries_per_kv(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    fn check_moe(&self) -> Result<(), String> {
        let Some(moe) = &self.moe else { return Ok(()) };
        check_size("the number of experts", moe.num_experts, MAX_EXPERTS)?;
        check_size("moe_intermediate_size", moe.intermediate_size, MAX_HIDDEN * 8)
    }
}

impl RawConfig {
    fn num_kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Bounds every size before anything is made of that many parts.
    fn check_sizes(&self, architecture: Architecture) -> Result<(), String> {
        let head_dim = self.head_dim(architecture);
        let sizes = [
            ("hidden_size", self.hidden_size, MAX_HIDDEN),
            ("intermediate_size", self.intermediate_size, MAX_HIDDEN * 8),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MAX_HEADS),
            ("num_key_value_heads", self.num_kv_heads(), MAX_HEADS),
            ("head_dim", head_dim, MAX_HEAD_DIM),
            ("vocab_size", self.vocab_size, MAX_VOCAB),
            ("max_position_embeddings", self.max_position_embeddings, MAX_CONTEXT),
        ];
        sizes.into_iter().try_for_each(|(name, size, most)| check_size(name, size, most))?;
        if !self.num_attention_heads.is_multiple_of(self.num_kv_heads()) {
            return Err(format!(
                "num_attention_heads ({}) is no multiple of num_key_value_heads ({})",
                self.num_attention_heads,
                self.num_kv_heads()
            ));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(format!("head_dim is {head_dim}: rotary embeddings need an even one"));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(format!("rms_norm_eps is {}: it must be above 0 and below 1", self.rms_norm_eps));
        }
        Ok(())
    }
}

fn check_size(name: &str, size: usize, most: usize) -> Result<(), String> {
    if size == 0 || size > most {
        return Err(format!("{name} is {size}: it must be from 1 to {most}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
