//! llama.cpp's names of tensors, and transformers'.

use crate::config::Architecture;

const OUTSIDE: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
/// Of a block, in most families.
const IN_BLOCK: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
/// What some families call otherwise: these stand above the usual ones.
const IN_GEMMA: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];
const IN_PHI3: &[(&str, &str)] = &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")];
const IN_MIXTRAL: &[(&str, &str)] = &[("ffn_gate_inp", "block_sparse_moe.gate")];
const IN_QWEN3_MOE: &[(&str, &str)] = &[("ffn_gate_inp", "mlp.gate")];
/// Tensors that hold a matrix of every expert, and what it is called in `experts.N`.
const EXPERTS: [&str; 3] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
const OF_QWEN3_MOE: (&str, [&str; 3]) = ("mlp", ["gate_proj", "up_proj", "down_proj"]);
const OF_MIXTRAL: (&str, [&str; 3]) = ("block_sparse_moe", ["w1", "w3", "w2"]);

/// What a tensor of a file is here.
#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    Tensor(String),
    /// One matrix an expert, called by their number between these.
    Experts(String, String),
}

impl Name {
    /// By the name in the file; one that is not known keeps its own.
    pub fn new(architecture: Architecture, gguf: &str) -> Self {
        Self::known(architecture, gguf).unwrap_or_else(|| Self::Tensor(gguf.into()))
    }

    fn known(architecture: Architecture, gguf: &str) -> Option<Self> {
        let (stem, kind) = gguf.rsplit_once('.')?;
        let Some((layer, stem)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return Some(Self::Tensor(format!("{}.{kind}", find(OUTSIDE, stem)?)));
        };
        let (own, experts): (&[(&str, &'static str)], _) = match architecture {
            Architecture::Gemma2 | Architecture::Gemma3 => (IN_GEMMA, None),
            Architecture::Phi3 => (IN_PHI3, None),
            Architecture::Mixtral => (IN_MIXTRAL, Some(OF_MIXTRAL)),
            Architecture::Qwen3Moe => (IN_QWEN3_MOE, Some(OF_QWEN3_MOE)),
            Architecture::Llama | Architecture::Mistral | Architecture::Qwen2 | Architecture::Qwen3 => (&[], None),
        };
        let place = format!("model.layers.{layer}");
        if let (Some((part, names)), Some(index)) = (experts, EXPERTS.iter().position(|name| *name == stem)) {
            return Some(Self::Experts(format!("{place}.{part}.experts"), format!("{}.{kind}", names[index])));
        }
        let ours = find(own, stem).or_else(|| find(IN_BLOCK, stem))?;
        Some(Self::Tensor(format!("{place}.{ours}.{kind}")))
    }
}

fn find(table: &[(&str, &'static str)], stem: &str) -> Option<&'static str> {
    table.iter().find(|(theirs, _)| *theirs == stem).map(|(_, ours)| *ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_transformers() {
        let cases = [
            (Architecture::Llama, "token_embd.weight", "model.embed_tokens.weight"),
            (Architecture::Llama, "output.weight", "lm_head.weight"),
            (Architecture::Qwen2, "blk.12.attn_q.bias", "model.layers.12.self_attn.q_proj.bias"),
            (Architecture::Llama, "blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            (Architecture::Gemma2, "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight"),
            (Architecture::Gemma3, "blk.1.attn_k_norm.weight", "model.layers.1.self_attn.k_norm.weight"),
            (Architecture::Phi3, "blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight"),
            (Architecture::Mixtral, "blk.3.ffn_gate_inp.weight", "model.layers.3.block_sparse_moe.gate.weight"),
            (Architecture::Llama, "blk.3.ffn_gate_exps.weight", "blk.3.ffn_gate_exps.weight"),
            (Architecture::Llama, "blk.0.ssm_a", "blk.0.ssm_a"),
            (Architecture::Llama, "rope_freqs.weight", "rope_freqs.weight"),
        ];
        for (architecture, gguf, ours) in cases {
            assert_eq!(Name::new(architecture, gguf), Name::Tensor(ours.into()));
        }
        let experts = |before: &str, after: &str| Name::Experts(before.into(), after.into());
        assert_eq!(
            Name::new(Architecture::Qwen3Moe, "blk.7.ffn_up_exps.weight"),
            experts("model.layers.7.mlp.experts", "up_proj.weight")
        );
        assert_eq!(
            Name::new(Architecture::Mixtral, "blk.7.ffn_down_exps.weight"),
            experts("model.layers.7.block_sparse_moe.experts", "w2.weight")
        );
    }
}
