//! Mixtral (Jiang et al. 2024, <https://arxiv.org/abs/2401.04088>): Llama's block with experts.

use super::decoder::Decoder;
use super::llama::{LlamaBlock, dense};
use crate::EngineError;
use crate::config::ModelConfig;
use crate::layers::{AttentionOptions, FeedForward, MlpNames, SparseMoe};
use crate::loader::Loader;

/// Gate, up and down of an expert.
const NAMES: MlpNames = MlpNames::Separate(["w1", "w3", "w2"]);

pub fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Decoder<LlamaBlock>, EngineError> {
    Decoder::load(loader, config, |loader, layer| {
        LlamaBlock::load(loader, config, layer, AttentionOptions::default(), |loader, config| match config.moe {
            Some(moe) => {
                let place = loader.at("block_sparse_moe");
                Ok(FeedForward::Sparse(SparseMoe::load(&place, config, moe, NAMES)?))
            }
            None => dense(loader, config),
        })
    })
}
