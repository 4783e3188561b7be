//! `config.json` as it is written, in the spellings of transformers 4 and 5, and each key's meaning in a family.

use candle_core::DType;
use lockstep_kernels::Activation;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::ConfigError;
use super::families::{
    ActivationKey, AttentionScale, Bias, EmbeddingScale, FamilyFacts, HeadDim, LocalRope, Multimodal, SoftCap,
};
use super::rope::{RawRope, Rope, RopeContext};

/// The names that decide how the rest of the file is read.
#[derive(Deserialize)]
pub struct Heading {
    #[serde(default, deserialize_with = "null_is_default")]
    pub architectures: Vec<String>,
}

/// Keys that the built-in families use.
#[derive(Deserialize)]
pub struct RawConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// The outer level is `None` if the key is absent, the inner one if it is `null`: the same below.
    #[serde(default, deserialize_with = "deserialize_present")]
    num_key_value_heads: Option<Option<usize>>,
    head_dim: Option<usize>,
    pub vocab_size: usize,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    /// Number that is added to norms. No file of transformers has this key: `gguf` writes it.
    rms_norm_offset: Option<f32>,
    #[serde(default, deserialize_with = "null_is_default")]
    attention_bias: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    mlp_bias: bool,
    tie_word_embeddings: Option<bool>,
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
    #[serde(default, deserialize_with = "deserialize_present")]
    pub(super) sliding_window: Option<Option<usize>>,
    pub(super) sliding_window_pattern: Option<usize>,
    pub(super) max_window_layers: Option<usize>,
    pub(super) layer_types: Option<Vec<String>>,
    #[serde(default, deserialize_with = "deserialize_present")]
    pub(super) num_experts: Option<Option<usize>>,
    #[serde(default, deserialize_with = "deserialize_present")]
    pub(super) num_local_experts: Option<Option<usize>>,
    #[serde(default, deserialize_with = "deserialize_present")]
    pub(super) num_experts_per_tok: Option<Option<usize>>,
    #[serde(default, deserialize_with = "deserialize_present")]
    pub(super) moe_intermediate_size: Option<Option<usize>>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) norm_topk_prob: bool,
    pub(super) decoder_sparse_step: Option<usize>,
    pub(super) mlp_only_layers: Option<Vec<usize>>,
    query_pre_attn_scalar: Option<f64>,
    #[serde(default, deserialize_with = "deserialize_present")]
    attn_logit_softcapping: Option<Option<f32>>,
    #[serde(default, deserialize_with = "deserialize_present")]
    final_logit_softcapping: Option<Option<f32>>,
    use_bidirectional_attention: Option<bool>,
}

/// Takes the text part out of a multimodal configuration, with the sizes that it leaves out.
pub fn take_text_part(mut whole: Value, multimodal: &Multimodal) -> Value {
    let mut text = whole.get_mut("text_config").map(Value::take).unwrap_or_default();
    if let Some(fields) = text.as_object_mut() {
        for (key, value) in multimodal.defaults {
            fields.entry(*key).or_insert((*value).into());
        }
        for key in ["dtype", "torch_dtype", "eos_token_id"] {
            if let Some(value) = whole.get_mut(key) {
                fields.entry(key).or_insert(value.take());
            }
        }
    }
    text
}

/// One id or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a token id, or a list of them")]
pub enum TokenIds {
    One(i64),
    Several(Vec<i64>),
}

impl TokenIds {
    /// Returns the ids. A negative id means that there is no such token.
    pub fn all(&self) -> Vec<u32> {
        let ids = match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Several(ids) => ids,
        };
        ids.iter().filter_map(|id| u32::try_from(*id).ok()).collect()
    }
}

/// Takes the default for `null`.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// Tells a key that is `null` from one that is absent.
fn deserialize_present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    value: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl RawConfig {
    /// Refuses features that would silently compute something else.
    pub fn check_supported(&self) -> Result<(), ConfigError> {
        let refuse = |key, remedy| Err(ConfigError::UnsupportedFeature { key, remedy });
        if self.use_bidirectional_attention == Some(true) {
            return refuse("use_bidirectional_attention", "only causal attention is supported");
        }
        Ok(())
    }

    pub fn num_kv_heads(&self, family: &FamilyFacts) -> usize {
        let heads = self.num_key_value_heads.unwrap_or(family.defaults.num_key_value_heads);
        heads.unwrap_or(self.num_attention_heads)
    }

    /// Returns the number of positions that the model was made for.
    pub fn context_length(&self, family: &FamilyFacts) -> usize {
        self.max_position_embeddings.unwrap_or(family.defaults.max_position_embeddings)
    }

    pub fn rms_norm_eps(&self, family: &FamilyFacts) -> f64 {
        self.rms_norm_eps.unwrap_or(family.defaults.rms_norm_eps)
    }

    pub fn tie_word_embeddings(&self, family: &FamilyFacts) -> bool {
        self.tie_word_embeddings.unwrap_or(family.defaults.tie_word_embeddings)
    }

    /// Returns the activation of the feed-forward part's gate.
    pub fn activation(&self, family: &FamilyFacts) -> Result<Activation, ConfigError> {
        let (key, name) = match family.activation.key {
            ActivationKey::HiddenAct => ("hidden_act", &self.hidden_act),
            ActivationKey::HiddenActivation => ("hidden_activation", &self.hidden_activation),
        };
        match name.as_deref() {
            None => Ok(family.activation.default),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            Some(other) => {
                Err(ConfigError::UnsupportedName { key, value: other.into(), supported: "silu, gelu_pytorch_tanh" })
            }
        }
    }

    /// Returns the number that is added to the weights of norms.
    pub fn norm_offset(&self, family: &FamilyFacts) -> Result<f32, ConfigError> {
        match self.rms_norm_offset.unwrap_or(family.norm_offset) {
            offset if offset.is_finite() => Ok(offset),
            offset => Err(ConfigError::out_of_bounds("rms_norm_offset", offset, "a finite number")),
        }
    }

    /// Returns the type that the checkpoint says it is stored in.
    pub fn dtype(&self) -> Result<Option<DType>, ConfigError> {
        let Some(name) = self.new_dtype.as_deref().or(self.torch_dtype.as_deref()) else { return Ok(None) };
        match name.strip_prefix("torch.").unwrap_or(name) {
            "float32" => Ok(Some(DType::F32)),
            "bfloat16" => Ok(Some(DType::BF16)),
            "float16" => Ok(Some(DType::F16)),
            "auto" => Ok(None),
            other => Err(ConfigError::UnsupportedName {
                key: "dtype",
                value: other.into(),
                supported: "float32, bfloat16, float16",
            }),
        }
    }

    /// Returns the size of one head; 0 if the file has no heads.
    pub fn head_dim(&self, family: &FamilyFacts) -> usize {
        match (self.head_dim, &family.head_dim) {
            (Some(size), _) | (None, &HeadDim::Size(size)) => size,
            (None, &HeadDim::HiddenSizeOverHeads) => {
                self.hidden_size.checked_div(self.num_attention_heads).unwrap_or(0)
            }
        }
    }

    /// Returns the factor on `q · k`.
    pub fn attention_scale(&self, family: &FamilyFacts) -> Result<f32, ConfigError> {
        #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
        let scalar = match family.attention_scale {
            AttentionScale::HeadDim => self.head_dim(family) as f64,
            AttentionScale::QueryPreAttnScalar { default } => self.query_pre_attn_scalar.unwrap_or(default),
        };
        #[expect(clippy::cast_possible_truncation, reason = "rounded once")]
        let scale = (1.0 / scalar.sqrt()) as f32;
        if scale.is_normal() && scale > 0.0 {
            return Ok(scale);
        }
        Err(ConfigError::out_of_bounds("query_pre_attn_scalar", scalar, "above 0"))
    }

    /// Returns the cap on attention scores.
    pub fn attention_soft_cap(&self, family: &FamilyFacts) -> Result<Option<f32>, ConfigError> {
        soft_cap("attn_logit_softcapping", self.attn_logit_softcapping, &family.attention_soft_cap)
    }

    /// Returns the cap on logits.
    pub fn logit_soft_cap(&self, family: &FamilyFacts) -> Result<Option<f32>, ConfigError> {
        soft_cap("final_logit_softcapping", self.final_logit_softcapping, &family.logit_soft_cap)
    }

    /// Returns the factor on embeddings.
    pub fn embedding_scale(&self, family: &FamilyFacts) -> Option<f32> {
        match family.embedding_scale {
            EmbeddingScale::One => None,
            #[expect(clippy::cast_precision_loss, reason = "hidden sizes are below 2^24")]
            EmbeddingScale::RootOfHiddenSize => Some((self.hidden_size as f32).sqrt()),
        }
    }

    /// Returns true if the attention has biases by the rule `bias`.
    pub fn attention_bias(&self, bias: Bias) -> bool {
        has_bias(bias, self.attention_bias)
    }

    /// Returns true if the feed-forward part has biases by the rule `bias`.
    pub fn mlp_bias(&self, bias: Bias) -> bool {
        has_bias(bias, self.mlp_bias)
    }

    /// Returns true if the layers that slide turn by a RoPE of their own.
    pub(super) fn has_local_rope(&self, family: &FamilyFacts) -> bool {
        match family.local_rope {
            LocalRope::Always { .. } => true,
            LocalRope::IfByLayerType => self.rope_fields().is_some_and(RawRope::is_by_layer_type),
        }
    }

    fn rope_fields(&self) -> Option<&RawRope> {
        self.rope_parameters.as_ref().or(self.rope_scaling.as_ref())
    }

    /// Returns the model's RoPE, and after it the RoPE of layers that slide if they have their own.
    pub fn ropes(&self, family: &FamilyFacts) -> Result<Vec<Rope>, ConfigError> {
        let fields = self.rope_fields();
        let (global, local) = match fields {
            Some(fields) if fields.is_by_layer_type() => fields.by_layer_type(),
            fields => (fields, None),
        };
        let context = |theta: f64| RopeContext {
            theta,
            partial: self.partial_rotary_factor,
            head_dim: self.head_dim(family),
            context_length: self.context_length(family),
            original_context_length: self
                .original_max_position_embeddings
                .or(family.defaults.original_max_position_embeddings),
            longrope_aliases: family.longrope_aliases,
        };
        let theta = self.rope_theta.unwrap_or(family.defaults.rope_theta);
        let mut ropes = vec![Rope::new(global, &context(theta))?];
        if self.has_local_rope(family) {
            let theta = match family.local_rope {
                LocalRope::Always { default_theta } => self.rope_local_base_freq.unwrap_or(default_theta),
                LocalRope::IfByLayerType => theta,
            };
            ropes.push(Rope::new(local, &context(theta))?);
        }
        Ok(ropes)
    }
}

fn has_bias(bias: Bias, configured: bool) -> bool {
    match bias {
        Bias::Never => false,
        Bias::Always => true,
        Bias::Configured => configured,
    }
}

/// Returns the cap by the family's `rule`. `value` tells an absent key from one that is `null`.
fn soft_cap(key: &'static str, value: Option<Option<f32>>, rule: &SoftCap) -> Result<Option<f32>, ConfigError> {
    let cap = match *rule {
        SoftCap::Never => None,
        SoftCap::IfGiven => value.flatten(),
        SoftCap::Default(cap) => value.unwrap_or(Some(cap)),
    };
    match cap {
        Some(cap) if !(cap.is_normal() && cap > 0.0) => Err(ConfigError::out_of_bounds(key, cap, "above 0")),
        cap => Ok(cap),
    }
}
