//! Qwen3 (Qwen team 2025, <https://arxiv.org/abs/2505.09388>) with experts.

use lockstep_kernels::Activation;

use super::{
    ActivationKey, AttentionFacts, AttentionScale, Bias, BlockKind, Defaults, EmbeddingScale, ExpertCount, ExpertFacts,
    ExpertSize, FamilyFacts, GateActivation, GgufFacts, GgufValue, GgufVariant, GgufWindow, HeadDim, LocalRope,
    MlpFacts, Normalization, SlidingLayers, SoftCap, SparseLayers, WindowKey,
};

pub const FACTS: FamilyFacts = FamilyFacts {
    name: "Qwen3MoeForCausalLM",
    block: BlockKind::PreNorm,
    multimodal: None,
    defaults: Defaults {
        num_key_value_heads: Some(4),
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
    sliding_layers: SlidingLayers::All,
    experts: Some(ExpertFacts {
        count: ExpertCount::NumExperts { default: 128 },
        default_experts_per_token: 8,
        intermediate_size: ExpertSize::MoeIntermediateSize { default: 768 },
        normalization: Normalization::NormTopkProb,
        layers: SparseLayers::ByStep,
        prefix: "mlp",
        projections: ["gate_proj", "up_proj", "down_proj"],
    }),
    attention: AttentionFacts { qkv_bias: Bias::Configured, o_bias: Bias::Configured, qk_norm: true, fused_qkv: false },
    mlp: MlpFacts { bias: Bias::Never, fused_gate_up: false },
    gguf: Some(GgufFacts {
        name: "qwen3moe",
        variant: GgufVariant::All,
        interleaved_heads: false,
        window: GgufWindow::Ignored,
        config: &[
            ("num_experts", GgufValue::Integer("expert_count")),
            ("num_experts_per_tok", GgufValue::Integer("expert_used_count")),
            ("moe_intermediate_size", GgufValue::Integer("expert_feed_forward_length")),
            // Files do not say it; llama.cpp makes the weights of a token's experts sum to one.
            ("norm_topk_prob", GgufValue::True),
        ],
        tensor_names: &[],
    }),
};
