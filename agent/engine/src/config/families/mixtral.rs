//! Mixtral (Jiang et al. 2024, <https://arxiv.org/abs/2401.04088>): Llama's layers with experts.

use lockstep_kernels::Activation;

use super::{
    ActivationKey, AttentionFacts, AttentionScale, Bias, BlockKind, Defaults, EmbeddingScale, ExpertCount, ExpertFacts,
    ExpertSize, FamilyFacts, GateActivation, GgufFacts, GgufValue, GgufVariant, GgufWindow, HeadDim, LocalRope,
    MlpFacts, Normalization, SlidingLayers, SoftCap, SparseLayers, WindowKey,
};

pub const FACTS: FamilyFacts = FamilyFacts {
    name: "MixtralForCausalLM",
    block: BlockKind::PreNorm,
    multimodal: None,
    defaults: Defaults {
        num_key_value_heads: Some(8),
        max_position_embeddings: 131_072,
        original_max_position_embeddings: None,
        rms_norm_eps: 1e-5,
        rope_theta: 1_000_000.0,
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
    window: WindowKey::IfGiven,
    sliding_layers: SlidingLayers::All,
    experts: Some(ExpertFacts {
        count: ExpertCount::NumLocalExperts { default: 8 },
        default_experts_per_token: 2,
        intermediate_size: ExpertSize::IntermediateSize,
        normalization: Normalization::Always,
        layers: SparseLayers::All,
        prefix: "block_sparse_moe",
        projections: ["w1", "w3", "w2"],
    }),
    attention: AttentionFacts { qkv_bias: Bias::Never, o_bias: Bias::Never, qk_norm: false, fused_qkv: false },
    mlp: MlpFacts { bias: Bias::Never, fused_gate_up: false },
    gguf: Some(GgufFacts {
        name: "llama",
        variant: GgufVariant::WithExperts,
        interleaved_heads: true,
        window: GgufWindow::Ignored,
        config: &[
            ("num_local_experts", GgufValue::Integer("expert_count")),
            ("num_experts_per_tok", GgufValue::Integer("expert_used_count")),
        ],
        tensor_names: &[],
    }),
};
