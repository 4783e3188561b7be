//! Llama 2 and 3 (Touvron et al. 2023, <https://arxiv.org/abs/2307.09288>).

use lockstep_kernels::{KvCache, RotaryTable};

use super::decoder::{Block, Decoder};
use crate::EngineError;
use crate::config::ModelConfig;
use crate::layers::{Attention, AttentionOptions, GatedMlp, Pass, Residual, RmsNorm};
use crate::weights::Loader;

pub type Llama = Decoder<LlamaBlock>;

pub struct LlamaBlock {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: GatedMlp,
}

impl LlamaBlock {
    /// The block of a family that differs in its attention alone.
    pub fn with_attention(
        loader: &Loader<'_>,
        config: &ModelConfig,
        options: AttentionOptions,
    ) -> Result<Self, EngineError> {
        let norm = |name| RmsNorm::load(loader, name, config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(&loader.at("self_attn"), config, options)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: GatedMlp::load(&loader.at("mlp"), config)?,
        })
    }
}

impl Block for LlamaBlock {
    fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Self, EngineError> {
        let bias = config.attention_bias;
        Self::with_attention(loader, config, AttentionOptions { qkv_bias: bias, o_bias: bias, qk_norm: false })
    }

    fn forward(
        &self,
        pass: &mut Pass<'_>,
        stream: &mut Residual,
        rotary: &RotaryTable,
        cache: &mut KvCache,
    ) -> Result<(), EngineError> {
        let x = self.input_layernorm.of_stream(pass, stream)?;
        stream.add(self.self_attn.forward(pass, &x, rotary, cache)?);
        let x = self.post_attention_layernorm.of_stream(pass, stream)?;
        stream.add(self.mlp.forward(pass, &x)?);
        Ok(())
    }
}
