//! Gemma 3's text part (2025, <https://arxiv.org/abs/2503.19786>): as Gemma 2, but with norms on queries and keys and a
//! RoPE for each kind of layer in place of the soft caps.

use lockstep_kernels::Activation;

use super::{
    ActivationKey, AttentionFacts, AttentionScale, Bias, BlockKind, Defaults, EmbeddingScale, FamilyFacts,
    GateActivation, GgufFacts, GgufValue, GgufVariant, GgufWindow, HeadDim, LocalRope, MlpFacts, Multimodal,
    SlidingLayers, SoftCap, WindowKey,
};

pub const FACTS: FamilyFacts = FamilyFacts {
    name: "Gemma3ForCausalLM",
    block: BlockKind::SandwichNorm,
    multimodal: Some(Multimodal {
        name: "Gemma3ForConditionalGeneration",
        weights_prefix: "language_model",
        defaults: &[
            ("hidden_size", 2304),
            ("intermediate_size", 9216),
            ("num_hidden_layers", 26),
            ("num_attention_heads", 8),
            ("vocab_size", 262_208),
        ],
    }),
    defaults: Defaults {
        num_key_value_heads: Some(4),
        max_position_embeddings: 131_072,
        original_max_position_embeddings: None,
        rms_norm_eps: 1e-6,
        rope_theta: 1_000_000.0,
        tie_word_embeddings: true,
    },
    activation: GateActivation { key: ActivationKey::HiddenActivation, default: Activation::GeluTanh },
    norm_offset: 1.0,
    head_dim: HeadDim::Size(256),
    attention_scale: AttentionScale::QueryPreAttnScalar { default: 256.0 },
    attention_soft_cap: SoftCap::Never,
    logit_soft_cap: SoftCap::IfGiven,
    embedding_scale: EmbeddingScale::RootOfHiddenSize,
    local_rope: LocalRope::Always { default_theta: 10_000.0 },
    longrope_aliases: &[],
    window: WindowKey::Default(4096),
    sliding_layers: SlidingLayers::AllButPattern { default: 6 },
    experts: None,
    attention: AttentionFacts { qkv_bias: Bias::Configured, o_bias: Bias::Configured, qk_norm: true, fused_qkv: false },
    mlp: MlpFacts { bias: Bias::Never, fused_gate_up: false },
    gguf: Some(GgufFacts {
        name: "gemma3",
        variant: GgufVariant::All,
        interleaved_heads: false,
        window: GgufWindow::PatternedOrNone,
        config: &[
            // GGUF norms already include the +1.
            ("rms_norm_offset", GgufValue::Zero),
            // Gemma 3 27B has 62 layers.
            ("query_pre_attn_scalar", GgufValue::QueryPreAttnScalar { even_at: 62 }),
            ("final_logit_softcapping", GgufValue::Float("final_logit_softcapping")),
            ("rope_local_base_freq", GgufValue::Float("rope.freq_base_swa")),
        ],
        tensor_names: &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_norm", "pre_feedforward_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        ],
    }),
};
