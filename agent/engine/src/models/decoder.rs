//! What decoder-only families share: an embedding, a stack of blocks, a norm, and the output projection. A stage of a
//! pipeline has some of the blocks, the first one the embedding, the last one norm and projection.

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
    embed_tokens: Option<VocabParallelEmbedding>,
    blocks: Vec<B>,
    output: Option<Output>,
}

/// What follows the last block.
struct Output {
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
        let (model, shard) = (loader.at("model"), loader.shard());
        let layers = model.at("layers");
        let tied = shard.projects && config.tie_word_embeddings;
        let embed_tokens =
            (shard.embeds || tied).then(|| VocabParallelEmbedding::load(&model, "embed_tokens", config)).transpose()?;
        let blocks = shard
            .layers
            .clone()
            .map(|index| block(&layers.at(index), &config.layers[index]))
            .collect::<Result<_, _>>()?;
        let output = if shard.projects {
            let lm_head = match &embed_tokens {
                Some(table) if tied => LmHead::tied(loader, config, table)?,
                _ => LmHead::load(loader, "lm_head", config)?,
            };
            Some(Output { norm: RmsNorm::load(&model, "norm", config.hidden_size, config)?, lm_head })
        } else {
            None
        };
        Ok(Self { embed_tokens: embed_tokens.filter(|_| shard.embeds), blocks, output })
    }
}

impl<B: Block> Model for Decoder<B> {
    fn embed(&self, pass: &mut Pass<'_>) -> Result<Residual, EngineError> {
        let elsewhere = || EngineError::Usage("the embedding is on the first pipeline stage".into());
        Ok(Residual::new(self.embed_tokens.as_ref().ok_or_else(elsewhere)?.forward(pass)?))
    }

    fn layers(&self, pass: &mut Pass<'_>, stream: &mut Residual, cache: &mut Cache) -> Result<(), EngineError> {
        let (ropes, layers) = cache.parts();
        let rotations = Rotations::new(pass, ropes, stream.device())?;
        for (block, layer) in self.blocks.iter().zip(layers) {
            block.forward(pass, stream, &rotations, layer)?;
        }
        Ok(())
    }

    fn logits(&self, pass: &mut Pass<'_>, mut rows: Residual) -> Result<Tensor, EngineError> {
        let elsewhere = || EngineError::Usage("the output projection is on the last pipeline stage".into());
        let Output { norm, lm_head } = self.output.as_ref().ok_or_else(elsewhere)?;
        let x = norm.of_stream(pass, &mut rows)?;
        lm_head.forward(pass, &x)
    }
}
