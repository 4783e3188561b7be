//! Llama's block (Touvron et al. 2023, <https://arxiv.org/abs/2307.09288>), which most families share. The configuration
//! has all their differences: windows, biases, norms on queries and keys, fused projections, and experts in place of the
//! dense feed-forward part.

use lockstep_kernels::KvCache;

use super::decoder::{Block, Decoder};
use crate::EngineError;
use crate::config::{LayerConfig, ModelConfig};
use crate::layers::{Attention, FeedForward, Pass, Residual, RmsNorm, RotaryTables};
use crate::loader::Loader;

pub fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Decoder<LlamaBlock>, EngineError> {
    Decoder::load(loader, config, |loader, layer| LlamaBlock::load(loader, config, layer))
}

/// Block of attention and then a feed-forward layer, each after a norm.
pub struct LlamaBlock {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

impl LlamaBlock {
    fn load(loader: &Loader<'_>, config: &ModelConfig, layer: &LayerConfig) -> Result<Self, EngineError> {
        let norm = |name| RmsNorm::load(loader, name, config.hidden_size, config);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(&loader.child("self_attn"), config, layer)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: FeedForward::load(loader, config, layer)?,
        })
    }
}

impl Block for LlamaBlock {
    fn forward(
        &self,
        pass: &mut Pass<'_>,
        stream: &mut Residual,
        rotary_tables: &RotaryTables,
        cache: &mut KvCache,
    ) -> Result<(), EngineError> {
        let x = self.input_layernorm.forward_residual(pass, stream)?;
        stream.add(self.self_attn.forward(pass, &x, rotary_tables, cache)?);
        let x = self.post_attention_layernorm.forward_residual(pass, stream)?;
        stream.add(self.mlp.forward(pass, &x)?);
        Ok(())
    }
}
