//! What decoder-only families share: an embedding, a stack of blocks, a norm, and the output projection.

use candle_core::Tensor;
use lockstep_kernels::{KvCache, RotaryTable};

use super::Model;
use crate::EngineError;
use crate::cache::Cache;
use crate::config::ModelConfig;
use crate::layers::{LmHead, Pass, Residual, RmsNorm, VocabParallelEmbedding};
use crate::weights::Loader;

/// One block of a family.
pub trait Block: Send + Sized {
    fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Self, EngineError>;

    fn forward(
        &self,
        pass: &mut Pass<'_>,
        stream: &mut Residual,
        rotary: &RotaryTable,
        cache: &mut KvCache,
    ) -> Result<(), EngineError>;
}

/// A family whose blocks are `B`.
pub struct Decoder<B> {
    embed_tokens: VocabParallelEmbedding,
    blocks: Vec<B>,
    norm: RmsNorm,
    lm_head: LmHead,
}

impl<B: Block> Decoder<B> {
    pub fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Self, EngineError> {
        let model = loader.at("model");
        let layers = model.at("layers");
        let embed_tokens = VocabParallelEmbedding::load(&model, "embed_tokens", config)?;
        Ok(Self {
            blocks: (0..config.num_layers).map(|layer| B::load(&layers.at(layer), config)).collect::<Result<_, _>>()?,
            norm: RmsNorm::load(&model, "norm", config.hidden_size, config.rms_norm_eps)?,
            lm_head: LmHead::load(loader, "lm_head", config, &embed_tokens)?,
            embed_tokens,
        })
    }
}

impl<B: Block> Model for Decoder<B> {
    fn hidden(&self, pass: &mut Pass<'_>, cache: &mut Cache) -> Result<Residual, EngineError> {
        let mut stream = Residual::new(self.embed_tokens.forward(pass)?);
        let (rotary, layers) = cache.parts();
        for (block, layer) in self.blocks.iter().zip(layers) {
            block.forward(pass, &mut stream, rotary, layer)?;
        }
        Ok(stream)
    }

    fn logits(&self, pass: &mut Pass<'_>, mut rows: Residual) -> Result<Tensor, EngineError> {
        let x = self.norm.of_stream(pass, &mut rows)?;
        self.lm_head.forward(pass, &x)
    }
}
