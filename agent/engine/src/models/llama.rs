//! Llama 2 and 3 (Touvron et al. 2023, <https://arxiv.org/abs/2307.09288>), and Mistral (Jiang et al. 2023,
//! <https://arxiv.org/abs/2310.06825>), which differs in its window alone. Other families share the block.

use lockstep_kernels::KvCache;

use super::decoder::{Block, Decoder};
use crate::EngineError;
use crate::config::{LayerConfig, ModelConfig};
use crate::layers::{Attention, AttentionOptions, FeedForward, GatedMlp, MlpNames};
use crate::layers::{Pass, Residual, RmsNorm, Rotations};
use crate::loader::Loader;

pub fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Decoder<LlamaBlock>, EngineError> {
    let bias = config.attention_bias;
    let options = AttentionOptions { qkv_bias: bias, o_bias: bias, ..AttentionOptions::default() };
    Decoder::load(loader, config, |loader, layer| LlamaBlock::load(loader, config, layer, options, dense))
}

/// The usual feed-forward part.
pub fn dense(loader: &Loader<'_>, config: &ModelConfig) -> Result<FeedForward, EngineError> {
    let mlp = GatedMlp::load(&loader.at("mlp"), config, MlpNames::USUAL, config.intermediate_size)?;
    Ok(FeedForward::Dense(mlp))
}

/// Attention, then a feed-forward part, each after a norm.
pub struct LlamaBlock {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

impl LlamaBlock {
    /// The block of a family that differs in its attention, or in the feed-forward part that `mlp` loads.
    pub fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        layer: &LayerConfig,
        options: AttentionOptions,
        mlp: impl FnOnce(&Loader<'_>, &ModelConfig) -> Result<FeedForward, EngineError>,
    ) -> Result<Self, EngineError> {
        let norm = |name| RmsNorm::load(loader, name, config.hidden_size, config);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(&loader.at("self_attn"), config, layer, options)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: mlp(loader, config)?,
        })
    }
}

impl Block for LlamaBlock {
    fn forward(
        &self,
        pass: &mut Pass<'_>,
        stream: &mut Residual,
        rotations: &Rotations,
        cache: &mut KvCache,
    ) -> Result<(), EngineError> {
        let x = self.input_layernorm.of_stream(pass, stream)?;
        stream.add(self.self_attn.forward(pass, &x, rotations, cache)?);
        let x = self.post_attention_layernorm.of_stream(pass, stream)?;
        stream.add(self.mlp.forward(pass, &x)?);
        Ok(())
    }
}
