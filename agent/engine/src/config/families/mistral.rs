//! Mistral (Jiang et al. 2023, <https://arxiv.org/abs/2310.06825>): Llama's layers with a sliding window.
//! GGUF files of it call themselves `llama`, and are read as such.

use lockstep_kernels::Activation;

use super::{
    ActivationKey, AttentionFacts, AttentionScale, Bias, BlockKind, Defaults, EmbeddingScale, FamilyFacts,
    GateActivation, HeadDim, LocalRope, MlpFacts, SlidingLayers, SoftCap, WindowKey,
};

pub const FACTS: FamilyFacts = FamilyFacts {
    name: "MistralForCausalLM",
    block: BlockKind::PreNorm,
    multimodal: None,
    defaults: Defaults {
        num_key_value_heads: Some(8),
        max_position_embeddings: 131_072,
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
    window: WindowKey::Default(4096),
    sliding_layers: SlidingLayers::All,
    experts: None,
    attention: AttentionFacts { qkv_bias: Bias::Never, o_bias: Bias::Never, qk_norm: false, fused_qkv: false },
    mlp: MlpFacts { bias: Bias::Never, fused_gate_up: false },
    gguf: None,
};
