//! Llama 2 and 3 (Touvron et al. 2023, <https://arxiv.org/abs/2307.09288>).

use lockstep_kernels::Activation;

use super::{
    ActivationKey, AttentionFacts, AttentionScale, Bias, BlockKind, Defaults, EmbeddingScale, FamilyFacts,
    GateActivation, GgufFacts, GgufVariant, GgufWindow, HeadDim, LocalRope, MlpFacts, SlidingLayers, SoftCap,
    WindowKey,
};

pub const FACTS: FamilyFacts = FamilyFacts {
    name: "LlamaForCausalLM",
    block: BlockKind::PreNorm,
    multimodal: None,
    defaults: Defaults {
        num_key_value_heads: None,
        max_position_embeddings: 2048,
        original_max_position_embeddings: None,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
    },
    activation: GateActivation { key: ActivationKey::HiddenAct, default: Activation::Silu },
    norm_offset: 0.0,
    head_dim: HeadDim::HiddenSizeOverHeads,
    attention_scale: AttentionScale::HeadDim,
    attention_soft_cap: SoftCap::Never,
    logit_soft_cap: SoftCap::Never,
    embedding_scale: EmbeddingScale::One,
    local_rope: LocalRope::IfByLayerType,
    longrope_aliases: &[],
    window: WindowKey::Unsupported,
    sliding_layers: SlidingLayers::All,
    experts: None,
    attention: AttentionFacts {
        qkv_bias: Bias::Configured,
        o_bias: Bias::Configured,
        qk_norm: false,
        fused_qkv: false,
    },
    mlp: MlpFacts { bias: Bias::Configured, fused_gate_up: false },
    gguf: Some(GgufFacts {
        name: "llama",
        variant: GgufVariant::WithoutExperts,
        interleaved_heads: true,
        window: GgufWindow::Ignored,
        config: &[],
        tensor_names: &[],
    }),
};
