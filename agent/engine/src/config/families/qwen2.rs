//! Qwen2 and 2.5 (Qwen team 2024, <https://arxiv.org/abs/2412.15115>): Llama's layers with biases on queries, keys and
//! values.

use lockstep_kernels::Activation;

use super::{
    ActivationKey, AttentionFacts, AttentionScale, Bias, BlockKind, Defaults, EmbeddingScale, FamilyFacts,
    GateActivation, GgufFacts, GgufVariant, GgufWindow, HeadDim, LocalRope, MlpFacts, SlidingLayers, SoftCap,
    WindowKey,
};

pub const FACTS: FamilyFacts = FamilyFacts {
    name: "Qwen2ForCausalLM",
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
    head_dim: HeadDim::HiddenSizeOverHeads,
    attention_scale: AttentionScale::HeadDim,
    attention_soft_cap: SoftCap::Never,
    logit_soft_cap: SoftCap::Never,
    embedding_scale: EmbeddingScale::One,
    local_rope: LocalRope::IfByLayerType,
    longrope_aliases: &[],
    window: WindowKey::IfUsed { default: 4096 },
    sliding_layers: SlidingLayers::From { default: 28 },
    experts: None,
    attention: AttentionFacts { qkv_bias: Bias::Always, o_bias: Bias::Never, qk_norm: false, fused_qkv: false },
    mlp: MlpFacts { bias: Bias::Never, fused_gate_up: false },
    gguf: Some(GgufFacts {
        name: "qwen2",
        variant: GgufVariant::All,
        interleaved_heads: false,
        window: GgufWindow::Ignored,
        config: &[],
        tensor_names: &[],
    }),
};
