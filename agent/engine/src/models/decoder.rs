//! What decoder-only families share: an embedding, a stack of blocks, a norm, and the output projection. A stage of a
//! pipeline has some of the blocks, the first one the embedding, the last one norm and projection.

use candle_core::Tensor;
use lockstep_kernels::{Context, KvCache};

use super::Model;
use crate::EngineError;
use crate::cache::Cache;
use crate::config::{LayerConfig, ModelConfig};
use crate::layers::{LmHead, Pass, Residual, RmsNorm, Rotations, VocabParallelEmbedding};
use crate::loader::Loader;

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
    embed_tokens: Option<Placed<VocabParallelEmbedding>>,
    blocks: Vec<Placed<B>>,
    output: Option<Placed<Output>>,
}

/// A part, and what computes it.
struct Placed<T> {
    context: Context,
    part: T,
}

impl<T> Placed<T> {
    fn load<'a>(
        loader: &Loader<'a>,
        context: &'a Context,
        load: impl FnOnce(&Loader<'a>) -> Result<T, EngineError>,
    ) -> Result<Self, EngineError> {
        Ok(Self { context: context.clone(), part: load(&loader.on(context))? })
    }
}

/// What follows the last block.
struct Output {
    norm: RmsNorm,
    lm_head: LmHead,
}

impl Output {
    /// `table`: the embedding, where it lies in the same place.
    fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        table: Option<&VocabParallelEmbedding>,
    ) -> Result<Self, EngineError> {
        let model = loader.at("model");
        let lm_head = match (config.tie_word_embeddings, table) {
            (false, _) => LmHead::load(loader, "lm_head", config)?,
            (true, Some(table)) => LmHead::tied(loader, config, table)?,
            (true, None) => LmHead::tied(loader, config, &embedding(loader, config)?)?,
        };
        Ok(Self { norm: RmsNorm::load(&model, "norm", config.hidden_size, config)?, lm_head })
    }
}

fn embedding(loader: &Loader<'_>, config: &ModelConfig) -> Result<VocabParallelEmbedding, EngineError> {
    VocabParallelEmbedding::load(&loader.at("model"), "embed_tokens", config)
}

impl<B: Block> Decoder<B> {
    /// `block` loads the block of one layer from its place.
    pub fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        block: impl Fn(&Loader<'_>, &LayerConfig) -> Result<B, EngineError>,
    ) -> Result<Self, EngineError> {
        let (shard, placement) = (loader.shard(), loader.placement());
        let (first, last) = (placement.first(), placement.last());
        let embed_tokens = shard.embeds.then(|| Placed::load(loader, first, |loader| embedding(loader, config)));
        let embed_tokens = embed_tokens.transpose()?;
        let placed = |index: usize| {
            Placed::load(loader, placement.of(index), |loader| {
                block(&loader.at("model").at("layers").at(index), &config.layers[index])
            })
        };
        let blocks = shard.layers.clone().map(placed).collect::<Result<_, _>>()?;
        let table = embed_tokens.as_ref().filter(|_| first.same_place(last)).map(|placed| &placed.part);
        let output = || Placed::load(loader, last, |loader| Output::load(loader, config, table));
        let output = shard.projects.then(output).transpose()?;
        Ok(Self { embed_tokens, blocks, output })
    }
}

impl<B: Block> Model for Decoder<B> {
    fn embed(&self, pass: &mut Pass<'_>) -> Result<Residual, EngineError> {
        let elsewhere = || EngineError::Usage("the embedding is on the first pipeline stage".into());
        let Placed { context, part } = self.embed_tokens.as_ref().ok_or_else(elsewhere)?;
        Ok(Residual::new(part.forward(&mut pass.on(context))?))
    }

    fn layers(&self, pass: &mut Pass<'_>, stream: &mut Residual, cache: &mut Cache) -> Result<(), EngineError> {
        let (ropes, layers) = cache.parts();
        let mut rotations = Rotations::new(pass, ropes, stream.device())?;
        for (Placed { context, part }, layer) in self.blocks.iter().zip(layers) {
            if stream.move_to(context.device())? {
                rotations = Rotations::new(pass, ropes, stream.device())?;
            }
            part.forward(&mut pass.on(context), stream, &rotations, layer)?;
        }
        Ok(())
    }

    fn logits(&self, pass: &mut Pass<'_>, mut rows: Residual) -> Result<Tensor, EngineError> {
        let elsewhere = || EngineError::Usage("the output projection is on the last pipeline stage".into());
        let Placed { context, part } = self.output.as_ref().ok_or_else(elsewhere)?;
        let pass = pass.on(context);
        let x = part.norm.of_stream(&pass, &mut rows)?;
        part.lm_head.forward(&pass, &x)
    }
}
