//! Gemma 2 (2024, <https://arxiv.org/abs/2408.00118>) and Gemma 3's text part (2025,
//! <https://arxiv.org/abs/2503.19786>): each part between two norms; local and global layers in turn; Gemma 2 with soft
//! caps, Gemma 3 with norms on queries and keys and a RoPE for each kind of layer.

use lockstep_kernels::KvCache;

use super::decoder::{Block, Decoder};
use crate::EngineError;
use crate::config::{LayerConfig, ModelConfig};
use crate::layers::{Attention, FeedForward, Pass, Residual, RmsNorm, RotaryTables};
use crate::loader::Loader;

pub fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Decoder<GemmaBlock>, EngineError> {
    Decoder::load(loader, config, |loader, layer| GemmaBlock::load(loader, config, layer))
}

pub struct GemmaBlock {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    pre_feedforward_layernorm: RmsNorm,
    mlp: FeedForward,
    post_feedforward_layernorm: RmsNorm,
}

impl GemmaBlock {
    fn load(loader: &Loader<'_>, config: &ModelConfig, layer: &LayerConfig) -> Result<Self, EngineError> {
        let norm = |name| RmsNorm::load(loader, name, config.hidden_size, config);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(&loader.child("self_attn"), config, layer)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            mlp: FeedForward::load(loader, config, layer)?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
        })
    }
}

impl Block for GemmaBlock {
    fn forward(
        &self,
        pass: &mut Pass<'_>,
        stream: &mut Residual,
        rotary_tables: &RotaryTables,
        cache: &mut KvCache,
    ) -> Result<(), EngineError> {
        let x = self.input_layernorm.forward_residual(pass, stream)?;
        let x = self.self_attn.forward(pass, &x, rotary_tables, cache)?;
        stream.add(self.post_attention_layernorm.forward(pass, &x)?);
        let x = self.pre_feedforward_layernorm.forward_residual(pass, stream)?;
        let x = self.mlp.forward(pass, &x)?;
        stream.add(self.post_feedforward_layernorm.forward(pass, &x)?);
        Ok(())
    }
}
