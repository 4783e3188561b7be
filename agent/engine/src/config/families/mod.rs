//! Model families that are built in: one file a family, and in it everything that the family's files mean.
//!
//! A [`FamilyFacts`] is written out in full for each family. Each field is one decision that every family has to make. No
//! field has a default, so a family that forgets one does not compile. All lists of families come from the one table
//! below.
//!
//! Keys are those of `config.json`. A key that a file leaves out means what transformers' configuration class takes for
//! it. The sizes of a model (`hidden_size`, `num_hidden_layers`, …) have no default: a file without one of them is
//! refused.

mod gemma2;
mod gemma3;
mod llama;
mod mistral;
mod mixtral;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use lockstep_kernels::Activation;

use crate::EngineError;

/// Declares [`Architecture`] with the module that holds the facts of each family.
macro_rules! architectures {
    ($($(#[$doc:meta])* $variant:ident => $module:ident,)+) => {
        /// Model families that are built in.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Architecture { $($(#[$doc])* $variant),+ }

        impl Architecture {
            /// Every family that is built in.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the facts about the family.
            pub(crate) fn facts(self) -> &'static FamilyFacts {
                match self { $(Self::$variant => &$module::FACTS),+ }
            }
        }
    };
}

architectures! {
    /// Llama 2, Llama 3.x, and every other model that calls itself `LlamaForCausalLM`.
    Llama => llama,
    /// Mistral 7B, Nemo and Small: Llama's layers, in some versions with a sliding window.
    Mistral => mistral,
    /// Mistral's mixture of experts.
    Mixtral => mixtral,
    /// Qwen2 and Qwen2.5, dense.
    Qwen2 => qwen2,
    /// Qwen3, dense.
    Qwen3 => qwen3,
    /// Qwen3, mixture of experts.
    Qwen3Moe => qwen3_moe,
    /// Gemma 2.
    Gemma2 => gemma2,
    /// Gemma 3's text part, alone or in a multimodal checkpoint.
    Gemma3 => gemma3,
    /// Phi-3 and Phi-4.
    Phi3 => phi3,
}

impl Architecture {
    /// Returns the name that `architectures` in `config.json` holds.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Returns true if llama.cpp has a name for the family, so that GGUF files can be of it.
    pub fn has_gguf_files(self) -> bool {
        self.facts().gguf.is_some()
    }

    /// Returns the first of `names` that is built in, and the multimodal wrapper if the name is the wrapper's.
    ///
    /// # Errors
    /// [`EngineError::Architecture`] if none is built in.
    pub(super) fn parse(names: &[String]) -> Result<(Self, Option<&'static Multimodal>), EngineError> {
        let known = |name: &String| {
            Self::ALL.iter().find_map(|architecture| {
                let facts = architecture.facts();
                let multimodal = facts.multimodal.as_ref().filter(|multimodal| multimodal.name == name);
                (facts.name == name || multimodal.is_some()).then_some((*architecture, multimodal))
            })
        };
        names.iter().find_map(known).ok_or_else(|| EngineError::Architecture {
            found: names.join(", "),
            supported: Self::ALL.iter().map(|architecture| architecture.name()).collect::<Vec<_>>().join(", "),
        })
    }
}

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
    /// Layers that slide if there is a window. A family without windows has `All`, which refuses `layer_types` that say
    /// otherwise.
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

/// Kind of decoder block, by the places of its norms. Either kind obeys every other fact: offsets of norms, scales, caps,
/// windows, biases, fused projections, experts. The name of a family says nothing: Gemma 1 would be `PreNorm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// A norm before the attention, and one before the feed-forward part: `models::llama`. Most families have it.
    PreNorm,
    /// A norm before and after the attention, and before and after the feed-forward part: `models::gemma`.
    SandwichNorm,
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
    /// The model's own, unless the file has RoPE parameters by type of layer. A family without windows has this.
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
    /// Norms of queries and keys. Each norm covers one head at a time, before the head turns.
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

/// Facts about a family's GGUF files. Keys of metadata are written without the architecture's name, which stands before
/// each of them.
pub struct GgufFacts {
    /// llama.cpp's name of the architecture: the value of `general.architecture`.
    pub name: &'static str,
    /// Files of that name that are of this family.
    pub variant: GgufVariant,
    /// Queries and keys are stored for a rotation of neighbours.
    pub interleaved_heads: bool,
    /// Meaning of the keys about sliding windows.
    pub window: GgufWindow,
    /// Keys of `config.json` that this family has beyond the common ones, and where their values come from.
    pub config: &'static [(&'static str, GgufValue)],
    /// Tensors of a layer that have another name than in most families: llama.cpp's, and transformers'.
    pub tensor_names: &'static [(&'static str, &'static str)],
}

/// Files of one architecture name that are of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufVariant {
    All,
    WithoutExperts,
    WithExperts,
}

/// Meaning of `attention.sliding_window`.
pub enum GgufWindow {
    /// The key is ignored.
    Ignored,
    /// The window; none if the key is left out or 0.
    ZeroIsNone,
    /// The window, or the family's default if the key is left out. `attention.sliding_window_pattern` says which layers
    /// slide.
    Patterned,
    /// The window; no layer slides if the key is left out. `attention.sliding_window_pattern` says which layers slide.
    PatternedOrNone,
}

/// Value of a key of `config.json`.
pub enum GgufValue {
    True,
    Zero,
    /// A whole number that the file must have under this key.
    Integer(&'static str),
    /// A number under this key. The key of `config.json` is left out if the file has none.
    Float(&'static str),
    /// The head's size; in a model of `even_at` layers, `hidden_size / num_attention_heads`. No key says it: llama.cpp
    /// knows the largest model of the family by its number of layers.
    QueryPreAttnScalar {
        even_at: i64,
    },
}
