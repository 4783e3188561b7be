//! Phi-3 (Abdin et al. 2024, <https://arxiv.org/abs/2404.14219>): Llama's block with fused projections.

use super::decoder::Decoder;
use super::llama::LlamaBlock;
use crate::EngineError;
use crate::config::ModelConfig;
use crate::layers::{AttentionOptions, FeedForward, GatedMlp, MlpNames};
use crate::loader::Loader;

pub fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Decoder<LlamaBlock>, EngineError> {
    let options = AttentionOptions { fused_qkv: true, ..AttentionOptions::default() };
    Decoder::load(loader, config, |loader, layer| {
        LlamaBlock::load(loader, config, layer, options, |loader, config| {
            let mlp = GatedMlp::load(&loader.at("mlp"), config, MlpNames::Fused, config.intermediate_size)?;
            Ok(FeedForward::Dense(mlp))
        })
    })
}
