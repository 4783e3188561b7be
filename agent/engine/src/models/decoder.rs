//! What decoder-only families share: an embedding, a stack of blocks, a norm, and the output projection.

use candle_core::Tensor;
use lockstep_kernels::KvCache;

use super::Model;
use crate::EngineError;
use crate::cache::Cache;
use crate::config::{LayerConfig, ModelConfig};
use crate::layers::{LmHead, Pass, Residual, RmsNorm, Rotations, VocabParallelEmbedding};
use crate::weights::Loader;

/// One block of a family.
pub trait Block: Send {
    fn forward(
        &self,
        pass: &mut Pass<'_>,
        stream: &mut Residual,
        rotations: &Rotations,
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
    /// `block` loads the block of one layer from its place.
    pub fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        block: impl Fn(&Loader<'_>, &LayerConfig) -> Result<B, EngineError>,
    ) -> Result<Self, EngineError> {
        let model = loader.at("model");
        let layers = model.at("layers");
        let embed_tokens = VocabParallelEmbedding::load(&model, "embed_tokens", config)?;
        Ok(Self {
            blocks: config
                .layers
                .iter()
                .enumerate()
                .map(|(index, layer)| block(&layers.at(index), layer))
                .collect::<Result<_, _>>()?,
            norm: RmsNorm::load(&model, "norm", config.hidden_size, config)?,
            lm_head: LmHead::load(loader, "lm_head", config, &embed_tokens)?,
            embed_tokens,
        })
    }
}

impl<B: Block> Model for Decoder<B> {
    fn hidden(&self, pass: &mut Pass<'_>, cache: &mut Cache) -> Result<Residual, EngineError> {
        let mut stream = Residual::new(self.embed_tokens.forward(pass)?);
        let (ropes, layers) = cache.parts();
        let rotations = Rotations::new(pass, ropes, stream.device())?;
        for (block, layer) in self.blocks.iter().zip(layers) {
            block.forward(pass, &mut stream, &rotations, layer)?;
        }
        Ok(stream)
    }

    fn logits(&self, pass: &mut Pass<'_>, mut rows: Residual) -> Result<Tensor, EngineError> {
        let x = self.norm.of_stream(pass, &mut rows)?;
        self.lm_head.forward(pass, &x)
    }
}
