//! Qwen3, dense (Qwen team 2025, <https://arxiv.org/abs/2505.09388>): Llama's block, with a norm on each head of
//! queries and keys.

use lockstep_kernels::{KvCache, RotaryTable};

use super::decoder::{Block, Decoder};
use super::llama::LlamaBlock;
use crate::EngineError;
use crate::config::ModelConfig;
use crate::layers::{AttentionOptions, Pass, Residual};
use crate::weights::Loader;

pub type Qwen3 = Decoder<Qwen3Block>;

pub struct Qwen3Block(LlamaBlock);

impl Block for Qwen3Block {
    fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Self, EngineError> {
        let bias = config.attention_bias;
        let options = AttentionOptions { qkv_bias: bias, o_bias: bias, qk_norm: true };
        Ok(Self(LlamaBlock::with_attention(loader, config, options)?))
    }

    fn forward(
        &self,
        pass: &mut Pass<'_>,
        stream: &mut Residual,
        rotary: &RotaryTable,
        cache: &mut KvCache,
    ) -> Result<(), EngineError> {
        self.0.forward(pass, stream, rotary, cache)
    }
}
