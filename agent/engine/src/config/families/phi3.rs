//! Phi-3 and Phi-4 (Abdin et al. 2024, <https://arxiv.org/abs/2404.14219>): Llama's layers with fused projections.

use lockstep_kernels::Activation;

use super::{
    ActivationKey, AttentionFacts, AttentionScale, Bias, BlockKind, Defaults, EmbeddingScale, FamilyFacts,
    GateActivation, GgufFacts, GgufVariant, GgufWindow, HeadDim, LocalRope, MlpFacts, SlidingLayers, SoftCap,
    WindowKey,
};

pub const FACTS: FamilyFacts = FamilyFacts {
    name: "Phi3ForCausalLM",
    block: BlockKind::PreNorm,
    multimodal: None,
    defaults: Defaults {
        num_key_value_heads: None,
        max_position_embeddings: 4096,
        original_max_position_embeddings: Some(4096),
        rms_norm_eps: 1e-5,
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
    // The first versions call it so.
    longrope_aliases: &["su", "yarn"],
    window: WindowKey::IfGiven,
    sliding_layers: SlidingLayers::All,
    experts: None,
    attention: AttentionFacts { qkv_bias: Bias::Never, o_bias: Bias::Never, qk_norm: false, fused_qkv: true },
    mlp: MlpFacts { bias: Bias::Never, fused_gate_up: true },
    gguf: Some(GgufFacts {
        name: "phi3",
        variant: GgufVariant::All,
        interleaved_heads: false,
        window: GgufWindow::ZeroIsNone,
        config: &[],
        tensor_names: &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")],
    }),
};
