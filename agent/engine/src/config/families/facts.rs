//! The shape of a family's facts: each field is one decision that every family has to make.
//!
//! Keys are those of `config.json`. A key that a file leaves out means what transformers' configuration class takes for
//! it. The sizes of a model (`hidden_size`, `num_hidden_layers`, …) have no default: a
//! file without one of them is refused.

use lockstep_kernels::Activation;

use super::GgufFacts;

/// Facts about one family: the meaning of its files.
pub struct FamilyFacts {
    /// Name in `architectures` of `config.json`.
    pub name: &'static str,
    /// Kind of the family's decoder blocks.
    pub block: BlockKind,
    /// Multimodal checkpoints that have this family as their text part. `None`: there is no such checkpoint.
    pub multimodal: Option<Multimodal>,
    /// Values of keys that a file leaves out.
    pub defaults: Defaults,
    /// Activation of the feed-forward part's gate.
    pub activation: GateActivation,
    /// Number that is added to the weights of every norm.
    pub norm_offset: f32,
    /// Size of one head if `head_dim` is left out.
    pub head_dim: HeadDim,
    /// Factor on `q · k`.
    pub attention_scale: AttentionScale,
    /// Cap on attention scores, `attn_logit_softcapping`.
    pub attention_soft_cap: SoftCap,
    /// Cap on logits, `final_logit_softcapping`.
    pub logit_soft_cap: SoftCap,
    /// Factor on embeddings.
    pub embedding_scale: EmbeddingScale,
    /// RoPE of the layers that slide.
    pub local_rope: LocalRope,
    /// Names of a RoPE type under which the family means `longrope`.
    pub longrope_aliases: &'static [&'static str],
    /// Meaning of `sliding_window`.
    pub window: WindowKey,
    /// Layers that slide if there is a window.
    pub sliding_layers: SlidingLayers,
    /// Mixture of experts. `None`: every layer is dense.
    pub experts: Option<ExpertFacts>,
    /// Tensors of the attention.
    pub attention: AttentionFacts,
    /// Tensors of a dense feed-forward part.
    pub mlp: MlpFacts,
    /// Meaning of the family's GGUF files. `None`: llama.cpp has no name for the family, so no GGUF file is of it.
    pub gguf: Option<GgufFacts>,
}

/// Kind of decoder block, a module of `models`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// A norm before the attention, and one before the feed-forward part.
    Llama,
    /// A norm before and after the attention, and before and after the feed-forward part.
    Gemma,
}

/// Values of keys that a file leaves out.
pub struct Defaults {
    /// `None`: as many as query heads. The value `null` means the same in every family.
    pub num_key_value_heads: Option<usize>,
    pub max_position_embeddings: usize,
    /// Positions of the first training, for YaRN, LongRoPE and Llama 3's RoPE. `None`: the RoPE's own number, or
    /// `max_position_embeddings`.
    pub original_max_position_embeddings: Option<usize>,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub tie_word_embeddings: bool,
}

/// A multimodal checkpoint that wraps a family.
pub struct Multimodal {
    /// Name in `architectures` of `config.json`.
    pub name: &'static str,
    /// Prefix of the text part's tensors.
    pub weights_prefix: &'static str,
    /// Sizes that `text_config` leaves out.
    pub defaults: &'static [(&'static str, u64)],
}

/// Key of the gate's activation, and its value if the key is left out.
pub struct GateActivation {
    pub key: ActivationKey,
    pub default: Activation,
}

/// Key that names the gate's activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationKey {
    /// `hidden_act`
    HiddenAct,
    /// `hidden_activation`; `hidden_act` is ignored.
    HiddenActivation,
}

/// Size of one head if `head_dim` is left out.
pub enum HeadDim {
    /// `hidden_size / num_attention_heads`
    HiddenSizeOverHeads,
    Size(usize),
}

/// Factor on `q · k`: one over the root of this number.
pub enum AttentionScale {
    /// The head's size.
    HeadDim,
    /// `query_pre_attn_scalar`, or `default` if it is left out.
    QueryPreAttnScalar { default: f64 },
}

/// A soft cap: `cap · tanh(x / cap)`.
pub enum SoftCap {
    /// The key is ignored.
    Never,
    /// The key's value; no cap if it is left out or `null`.
    IfGiven,
    /// The key's value, or this one if it is left out; no cap if it is `null`.
    Default(f32),
}

/// Factor on embeddings.
pub enum EmbeddingScale {
    One,
    RootOfHiddenSize,
}

/// RoPE of the layers that slide.
pub enum LocalRope {
    /// The model's own, unless the file has RoPE parameters by type of layer.
    IfByLayerType,
    /// A RoPE of their own, with `rope_local_base_freq` or `default_theta` as its base.
    Always { default_theta: f64 },
}

/// Meaning of `sliding_window`.
pub enum WindowKey {
    /// No layer slides. A file that asks for it by `use_sliding_window` is refused.
    Unsupported,
    /// The key's value; no window if it is left out or `null`.
    IfGiven,
    /// The key's value, or this one if it is left out; no window if it is `null`.
    Default(usize),
    /// The key's value, or `default` if it is left out, in a file whose `use_sliding_window` is true. Otherwise no window.
    IfUsed { default: usize },
}

/// Layers that slide.
pub enum SlidingLayers {
    /// All of them if there is a window. `layer_types` may not say otherwise.
    All,
    /// Those that `layer_types` names; without it, those from `max_window_layers` or `default` on.
    From { default: usize },
    /// Those that `layer_types` names; without it, all but every n-th.
    AllButEvery(usize),
    /// Those that `layer_types` names; without it, all but every n-th, where n is `sliding_window_pattern` or `default`.
    AllButPattern { default: usize },
}

/// Keys and tensors of a mixture of experts.
pub struct ExpertFacts {
    pub count: ExpertCount,
    /// Experts that a token visits if `num_experts_per_tok` is left out.
    pub default_experts_per_token: usize,
    pub intermediate_size: ExpertSize,
    pub normalization: Normalization,
    pub layers: SparseLayers,
    /// Prefix of the tensors of router and experts within a layer.
    pub prefix: &'static str,
    /// Names of an expert's gate, up and down projection.
    pub projections: [&'static str; 3],
}

/// Key of the number of experts, and the number if the key is left out. Mixtral and Qwen3-MoE each have the other
/// family's key as a second name, which takes precedence.
pub enum ExpertCount {
    /// `num_local_experts`; `num_experts` takes precedence.
    NumLocalExperts { default: usize },
    /// `num_experts`; `num_local_experts` takes precedence.
    NumExperts { default: usize },
}

/// Key of the intermediate size of one expert.
pub enum ExpertSize {
    /// `intermediate_size`
    IntermediateSize,
    /// `moe_intermediate_size`, or `default` if it is left out.
    MoeIntermediateSize { default: usize },
}

/// Sum of the weights of a token's experts.
pub enum Normalization {
    /// One.
    Always,
    /// One if `norm_topk_prob` is true; otherwise their share of the softmax over all experts.
    NormTopkProb,
}

/// Layers that hold experts.
pub enum SparseLayers {
    All,
    /// Every `decoder_sparse_step`-th layer that `mlp_only_layers` does not name.
    ByStep,
}

/// Tensors of the attention.
pub struct AttentionFacts {
    /// Biases on queries, keys and values.
    pub qkv_bias: Bias,
    /// Bias on the output.
    pub o_bias: Bias,
    /// Norms on each head of queries and keys, before the head turns.
    pub qk_norm: bool,
    /// Queries, keys and values are one matrix, `qkv_proj`.
    pub fused_qkv: bool,
}

/// Tensors of a dense feed-forward part.
pub struct MlpFacts {
    pub bias: Bias,
    /// Gate and up projection are one matrix, `gate_up_proj`.
    pub fused_gate_up: bool,
}

/// Presence of biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    Never,
    Always,
    /// `attention_bias` or `mlp_bias` decides; none if it is left out.
    Configured,
}
