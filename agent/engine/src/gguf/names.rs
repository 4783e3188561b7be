//! Names of tensors, translated from llama.cpp's to transformers'.

use crate::config::Architecture;

/// Names outside of the layers: llama.cpp's, and transformers'.
const OUTSIDE: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
/// Names in a layer of most families: llama.cpp's, and transformers'.
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
/// Router of a mixture of experts.
const ROUTER: &str = "ffn_gate_inp";
/// Stacks of the gate, up and down projections of all experts.
const EXPERTS: [&str; 3] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];

/// A tensor's name in transformers.
#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    Tensor(String),
    /// Names of the matrices in a stack, one for each expert. The expert's number stands between these two parts.
    Experts(String, String),
}

impl Name {
    /// Translates `gguf`, the name of a tensor in a GGUF file. An unknown name stays as it is.
    pub fn new(architecture: Architecture, gguf: &str) -> Self {
        Self::translate(architecture, gguf).unwrap_or_else(|| Self::Tensor(gguf.into()))
    }

    fn translate(architecture: Architecture, gguf: &str) -> Option<Self> {
        let (stem, kind) = gguf.rsplit_once('.')?;
        let Some((layer, stem)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return Some(Self::Tensor(format!("{}.{kind}", find(OUTSIDE, stem)?)));
        };
        let facts = architecture.facts();
        let layer = format!("model.layers.{layer}");
        if let Some(experts) = &facts.experts {
            let prefix = format!("{layer}.{}", experts.prefix);
            if stem == ROUTER {
                return Some(Self::Tensor(format!("{prefix}.gate.{kind}")));
            }
            if let Some(index) = EXPERTS.iter().position(|name| *name == stem) {
                let projection = experts.projections[index];
                return Some(Self::Experts(format!("{prefix}.experts"), format!("{projection}.{kind}")));
            }
        }
        let own = facts.gguf.as_ref().map_or(&[][..], |gguf| gguf.tensor_names);
        let ours = find(own, stem).or_else(|| find(IN_BLOCK, stem))?;
        Some(Self::Tensor(format!("{layer}.{ours}.{kind}")))
    }
}

/// Returns llama.cpp's name of a tensor, for messages about a GGUF file. The matrices of experts have none of their own.
pub fn in_gguf(architecture: Architecture, name: &str) -> Option<String> {
    let kind = name.rsplit_once('.')?.1;
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')).map(|(layer, _)| layer);
    let own = architecture.facts().gguf.as_ref().map_or(&[][..], |gguf| gguf.tensor_names);
    let stems = OUTSIDE.iter().chain(own).chain(IN_BLOCK).map(|(theirs, _)| *theirs).chain([ROUTER]);
    let spell = |stem| layer.map_or(format!("{stem}.{kind}"), |layer| format!("blk.{layer}.{stem}.{kind}"));
    stems.map(spell).find(|spelled| Name::translate(architecture, spelled) == Some(Name::Tensor(name.into())))
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
            let spelled = in_gguf(architecture, ours);
            assert_eq!(spelled.as_deref(), (ours != gguf).then_some(gguf));
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
