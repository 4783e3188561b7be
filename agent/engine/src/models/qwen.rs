//! Qwen2 and 2.5 (Qwen team 2024, <https://arxiv.org/abs/2412.15115>): Llama's block with biases on queries, keys and
//! values. Qwen3 (2025, <https://arxiv.org/abs/2505.09388>): without them, with a norm on each head of queries and
//! keys, dense or with experts.

use super::decoder::Decoder;
use super::llama::{LlamaBlock, dense};
use crate::EngineError;
use crate::config::{LayerConfig, ModelConfig};
use crate::layers::{AttentionOptions, FeedForward, MlpNames, SparseMoe};
use crate::loader::Loader;

pub fn load_qwen2(loader: &Loader<'_>, config: &ModelConfig) -> Result<Decoder<LlamaBlock>, EngineError> {
    let options = AttentionOptions { qkv_bias: true, ..AttentionOptions::default() };
    Decoder::load(loader, config, |loader, layer| LlamaBlock::load(loader, config, layer, options, dense))
}

pub fn load_qwen3(loader: &Loader<'_>, config: &ModelConfig) -> Result<Decoder<LlamaBlock>, EngineError> {
    let bias = config.attention_bias;
    let options = AttentionOptions { qkv_bias: bias, o_bias: bias, qk_norm: true, fused_qkv: false };
    let block = |loader: &Loader<'_>, layer: &LayerConfig| {
        LlamaBlock::load(loader, config, layer, options, |loader, config| match config.moe {
            Some(moe) if layer.sparse => {
                Ok(FeedForward::Sparse(SparseMoe::load(&loader.at("mlp"), config, moe, MlpNames::USUAL)?))
            }
            _ => dense(loader, config),
        })
    };
    Decoder::load(loader, config, block)
}
