//! The parts that decoder-only families share: an embedding, a stack of blocks, a norm, and the output projection. A
//! pipeline stage has some of the blocks. The first stage also has the embedding, and the last stage the norm and the
//! projection.

use candle_core::Tensor;
use lockstep_kernels::{Context, KvCache};

use super::Model;
use crate::EngineError;
use crate::cache::Cache;
use crate::config::{LayerConfig, ModelConfig};
use crate::layers::{LmHead, Pass, Residual, RmsNorm, RotaryTables, VocabParallelEmbedding};
use crate::loader::Loader;

/// Transformer block of a family.
pub trait Block: Send {
    fn forward(
        &self,
        pass: &mut Pass<'_>,
        stream: &mut Residual,
        rotary_tables: &RotaryTables,
        cache: &mut KvCache,
    ) -> Result<(), EngineError>;
}

/// Model of a family whose blocks are `B`.
pub struct Decoder<B> {
    embed_tokens: Option<PlacedPart<VocabParallelEmbedding>>,
    blocks: Vec<PlacedPart<B>>,
    output: Option<PlacedPart<OutputHead>>,
}

/// A part of the model, and the context that computes it.
struct PlacedPart<T> {
    context: Context,
    part: T,
}

impl<T> PlacedPart<T> {
    fn load<'a>(
        loader: &Loader<'a>,
        context: &'a Context,
        load: impl FnOnce(&Loader<'a>) -> Result<T, EngineError>,
    ) -> Result<Self, EngineError> {
        Ok(Self { context: context.clone(), part: load(&loader.with_context(context))? })
    }
}

/// Parts after the last block.
struct OutputHead {
    norm: RmsNorm,
    lm_head: LmHead,
}

impl OutputHead {
    /// Loads the parts. `table` is the embedding, if it lies on the same device.
    fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        table: Option<&VocabParallelEmbedding>,
    ) -> Result<Self, EngineError> {
        let model = loader.child("model");
        let lm_head = match (config.tie_word_embeddings, table) {
            (false, _) => LmHead::load(loader, "lm_head", config)?,
            (true, Some(table)) => LmHead::tied(loader, config, table)?,
            (true, None) => LmHead::tied(loader, config, &load_embedding(loader, config)?)?,
        };
        Ok(Self { norm: RmsNorm::load(&model, "norm", config.hidden_size, config)?, lm_head })
    }
}

fn load_embedding(loader: &Loader<'_>, config: &ModelConfig) -> Result<VocabParallelEmbedding, EngineError> {
    VocabParallelEmbedding::load(&loader.child("model"), "embed_tokens", config)
}

impl<B: Block> Decoder<B> {
    /// Loads the model. `block` loads one block on its device.
    pub fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        block: impl Fn(&Loader<'_>, &LayerConfig) -> Result<B, EngineError>,
    ) -> Result<Self, EngineError> {
        let (shard, placement) = (loader.shard(), loader.placement());
        let (first, last) = (placement.first(), placement.last());
        let embed_tokens =
            shard.embeds.then(|| PlacedPart::load(loader, first, |loader| load_embedding(loader, config)));
        let embed_tokens = embed_tokens.transpose()?;
        let placed = |index: usize| {
            PlacedPart::load(loader, placement.context_of(index), |loader| {
                block(&loader.child("model").child("layers").child(index), &config.layers[index])
            })
        };
        let blocks = shard.layers.clone().map(placed).collect::<Result<_, _>>()?;
        let table = embed_tokens.as_ref().filter(|_| first.same_place(last)).map(|placed| &placed.part);
        let output = || PlacedPart::load(loader, last, |loader| OutputHead::load(loader, config, table));
        let output = shard.projects.then(output).transpose()?;
        Ok(Self { embed_tokens, blocks, output })
    }
}

impl<B: Block> Model for Decoder<B> {
    fn embed(&self, pass: &mut Pass<'_>) -> Result<Residual, EngineError> {
        let wrong_stage = || EngineError::Usage("the embedding is on the first pipeline stage".into());
        let PlacedPart { context, part } = self.embed_tokens.as_ref().ok_or_else(wrong_stage)?;
        Ok(Residual::new(part.forward(&mut pass.with_context(context))?))
    }

    fn forward_layers(&self, pass: &mut Pass<'_>, stream: &mut Residual, cache: &mut Cache) -> Result<(), EngineError> {
        let (ropes, layers) = cache.split_mut();
        let mut rotary_tables = RotaryTables::new(pass, ropes, stream.device())?;
        for (PlacedPart { context, part }, layer) in self.blocks.iter().zip(layers) {
            if stream.move_to(context.device())? {
                rotary_tables = RotaryTables::new(pass, ropes, stream.device())?;
            }
            part.forward(&mut pass.with_context(context), stream, &rotary_tables, layer)?;
        }
        Ok(())
    }

    fn compute_logits(&self, pass: &mut Pass<'_>, mut rows: Residual) -> Result<Tensor, EngineError> {
        let wrong_stage = || EngineError::Usage("the output projection is on the last pipeline stage".into());
        let PlacedPart { context, part } = self.output.as_ref().ok_or_else(wrong_stage)?;
        let pass = pass.with_context(context);
        let x = part.norm.forward_residual(&pass, &mut rows)?;
        part.lm_head.forward(&pass, &x)
    }
}
