//! Values of `config.json` that no model can be made of.

/// A key of `config.json` and the reason that its value is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A key that the family needs is `null`.
    #[error("{key} is null: this family needs a number; leave the key out for its usual value")]
    Null { key: &'static str },
    /// A number is outside of its bounds.
    #[error("{key} is {value}: it must be {allowed}")]
    OutOfBounds { key: &'static str, value: String, allowed: String },
    /// A name stands for something that is not built in.
    #[error("{key} `{value}` is not supported; supported: {supported}")]
    UnsupportedName { key: &'static str, value: String, supported: &'static str },
    /// A key asks for a feature that is not built in.
    #[error("{key}: {remedy}")]
    UnsupportedFeature { key: &'static str, remedy: &'static str },
    /// Query heads cannot be grouped over the KV heads.
    #[error("num_attention_heads ({heads}) is no multiple of num_key_value_heads ({kv_heads})")]
    UnevenHeads { heads: usize, kv_heads: usize },
    /// A head has no whole pairs of dimensions that turn.
    #[error(
        "head_dim ({head_dim}) × partial_rotary_factor ({partial}) gives {rotary_dim} dimensions that turn: rotary \
         embeddings need an even number of them, at least 2"
    )]
    RotaryDim { head_dim: usize, partial: f64, rotary_dim: usize },
    /// `layer_types` is not one entry a layer.
    #[error("layer_types has {found} entries, num_hidden_layers is {expected}")]
    LayerTypeCount { found: usize, expected: usize },
    /// `layer_types` holds a kind of layer that is not built in.
    #[error("layer_types holds `{found}`; supported: {supported}")]
    LayerType { found: String, supported: String },
    /// `layer_types` asks a family of one kind of layer for two.
    #[error("layer_types: every layer of a {family} is {kind}, and the file asks for another; leave layer_types out")]
    MixedLayerTypes { family: &'static str, kind: &'static str },
    /// Layers slide over no window.
    #[error("some layers are sliding_attention, and sliding_window is not set")]
    NoWindow,
    /// A RoPE lacks one of its parameters.
    #[error("rope type `{kind}` needs {key}")]
    MissingRopeKey { kind: String, key: &'static str },
    /// A parameter of a RoPE is not above 0.
    #[error("{key} of rope type `{kind}` is {value}: it must be above 0")]
    RopeValue { kind: String, key: &'static str, value: f64 },
    /// A list of LongRoPE's divisors has another length than the RoPE.
    #[error("{key} has {found} numbers, and {expected} pairs of dimensions turn")]
    RopeDivisors { key: &'static str, found: usize, expected: usize },
    /// Llama 3's frequencies are given in the wrong order.
    #[error("high_freq_factor ({high}) must be above low_freq_factor ({low})")]
    RopeFrequencies { low: f64, high: f64 },
}

impl ConfigError {
    /// The error for a number that is not `allowed`.
    pub(super) fn out_of_bounds(key: &'static str, value: impl std::fmt::Display, allowed: impl Into<String>) -> Self {
        Self::OutOfBounds { key, value: value.to_string(), allowed: allowed.into() }
    }
}
