//! Gemma 2 (2024, <https://arxiv.org/abs/2408.00118>): each part between two norms, local and global layers in turn,
//! soft caps.

use lockstep_kernels::Activation;

use super::{
    ActivationKey, AttentionFacts, AttentionScale, Bias, BlockKind, Defaults, EmbeddingScale, FamilyFacts,
    GateActivation, GgufFacts, GgufValue, GgufVariant, GgufWindow, HeadDim, LocalRope, MlpFacts, SlidingLayers,
    SoftCap, WindowKey,
};

pub const FACTS: FamilyFacts = FamilyFacts {
    name: "Gemma2ForCausalLM",
    block: BlockKind::SandwichNorm,
    multimodal: None,
    defaults: Defaults {
        num_key_value_heads: Some(4),
        max_position_embeddings: 8192,
        original_max_position_embeddings: None,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        tie_word_embeddings: true,
    },
    activation: GateActivation { key: ActivationKey::HiddenActivation, default: Activation::GeluTanh },
    norm_offset: 1.0,
    head_dim: HeadDim::Size(256),
    attention_scale: AttentionScale::QueryPreAttnScalar { default: 256.0 },
    attention_soft_cap: SoftCap::Default(50.0),
    logit_soft_cap: SoftCap::Default(30.0),
    embedding_scale: EmbeddingScale::RootOfHiddenSize,
    local_rope: LocalRope::IfByLayerType,
    longrope_aliases: &[],
    window: WindowKey::Default(4096),
    sliding_layers: SlidingLayers::AllButEvery(2),
    experts: None,
    attention: AttentionFacts {
        qkv_bias: Bias::Configured,
        o_bias: Bias::Configured,
        qk_norm: false,
        fused_qkv: false,
    },
    mlp: MlpFacts { bias: Bias::Never, fused_gate_up: false },
    gguf: Some(GgufFacts {
        name: "gemma2",
        variant: GgufVariant::All,
        interleaved_heads: false,
        window: GgufWindow::Patterned,
        config: &[
            // GGUF norms already include the +1.
            ("rms_norm_offset", GgufValue::Zero),
            // Gemma 2 27B has 46 layers.
            ("query_pre_attn_scalar", GgufValue::QueryPreAttnScalar { even_at: 46 }),
            ("attn_logit_softcapping", GgufValue::Float("attn_logit_softcapping")),
            ("final_logit_softcapping", GgufValue::Float("final_logit_softcapping")),
        ],
        tensor_names: &[
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_norm", "pre_feedforward_layernorm"),
            ("post_ffw_norm", "post_feedforward_layernorm"),
        ],
    }),
};
