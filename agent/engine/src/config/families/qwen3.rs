//! Qwen3 (Qwen team 2025, <https://arxiv.org/abs/2505.09388>), dense: Llama's layers with norms on queries and keys.

use lockstep_kernels::Activation;

use super::{
    ActivationKey, AttentionFacts, AttentionScale, Bias, BlockKind, Defaults, EmbeddingScale, FamilyFacts,
    GateActivation, GgufFacts, GgufVariant, GgufWindow, HeadDim, LocalRope, MlpFacts, SlidingLayers, SoftCap,
    WindowKey,
};

pub const FACTS: FamilyFacts = FamilyFacts {
    name: "Qwen3ForCausalLM",
    block: BlockKind::PreNorm,
    multimodal: None,
    defaults: Defaults {
        num_key_value_heads: Some(32),
        max_position_embeddings: 32_768,
        original_max_position_embeddings: None,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
    },
    activation: GateActivation { key: ActivationKey::HiddenAct, default: Activation::Silu },
    norm_offset: 0.0,
    head_dim: HeadDim::Size(128),
    attention_scale: AttentionScale::HeadDim,
    attention_soft_cap: SoftCap::Never,
    logit_soft_cap: SoftCap::Never,
    embedding_scale: EmbeddingScale::One,
    local_rope: LocalRope::IfByLayerType,
    longrope_aliases: &[],
    window: WindowKey::IfUsed { default: 4096 },
    sliding_layers: SlidingLayers::From { default: 28 },
    experts: None,
    attention: AttentionFacts { qkv_bias: Bias::Configured, o_bias: Bias::Configured, qk_norm: true, fused_qkv: false },
    mlp: MlpFacts { bias: Bias::Never, fused_gate_up: false },
    gguf: Some(GgufFacts {
        name: "qwen3",
        variant: GgufVariant::All,
        interleaved_heads: false,
        window: GgufWindow::Ignored,
        config: &[],
        tensor_names: &[],
    }),
};
