//! Estimates of the memory that a rank's parts take, from the headers of its weight files. A placement is made from them.

use std::ops::Range;

use candle_core::DType;
use lockstep_kernels::{BlockFormat, plain};

use super::plan::Costs;
use crate::config::ModelConfig;
use crate::entry::{Stored, unrounded_dtype};
use crate::runner::ROWS_PER_PIECE;
use crate::shard::Shard;
use crate::weights::Weights;

/// Positions of one sequence that every placement leaves room for. With fewer, hardly a request could be served.
const LEAST_CONTEXT: u32 = 4096;

/// Bytes of weights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of each layer of the stage.
    pub layers: Vec<u64>,
    /// Bytes of the embedding; 0 if the stage lacks it.
    pub embedding: u64,
    /// Bytes of the final norm and the output projection; 0 if the stage lacks them.
    pub output: u64,
    /// Part of `output` that a tied projection takes from the embedding if both are in one place.
    pub shared: u64,
}

impl Sizes {
    /// Estimates the sizes of `weights` that are kept in `dtype`, or `quantized`.
    pub fn estimate(
        weights: &Weights,
        config: &ModelConfig,
        shard: &Shard,
        dtype: DType,
        quantized: Option<BlockFormat>,
    ) -> Self {
        let root = config.weights_prefix.map_or(String::new(), |prefix| format!("{prefix}."));
        let ranks = shard.group.world_size() as u64;
        let mut sizes = Self { layers: vec![0; shard.layers.len()], ..Self::default() };
        for (name, entry) in weights.entries() {
            let Some(name) = name.strip_prefix(&root) else { continue };
            let part = |bytes: u64| if entry.is_matrix() { bytes.div_ceil(ranks) } else { bytes };
            let bytes = match (&entry.stored, is_router(name)) {
                // Every rank has the whole router, unrounded.
                (Stored::Float(stored), true) => entry.memory_bytes(unrounded_dtype(*stored, dtype), None),
                (_, true) => entry.bytes,
                (_, false) => part(entry.memory_bytes(dtype, quantized)),
            };
            let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
            if let Some(layer) = layer {
                let index = shard.layers.contains(&layer).then(|| layer - shard.layers.start);
                index.into_iter().for_each(|index: usize| sizes.layers[index] += bytes);
            } else if name.starts_with("model.embed_tokens.") {
                let table = part(entry.memory_bytes(dtype, None));
                sizes.embedding += if shard.embeds { table } else { 0 };
                if shard.projects && config.tie_word_embeddings {
                    sizes.output += bytes;
                    // A projection that is quantized while loading is another matrix.
                    let is_another = quantized.is_some() && matches!(entry.stored, Stored::Float(_));
                    sizes.shared += if shard.embeds && !is_another { bytes } else { 0 };
                }
            } else if name.starts_with("model.norm.") || (name.starts_with("lm_head.") && !config.tie_word_embeddings) {
                sizes.output += if shard.projects { bytes } else { 0 };
            }
        }
        sizes
    }

    /// Returns the bytes of a run of the stage's layers, with the bytes that come with the first and the last layer.
    pub fn run_bytes(&self, run: &Range<usize>) -> u64 {
        let first = if run.start == 0 { self.embedding } else { 0 };
        let last = if run.end == self.layers.len() { self.output } else { 0 };
        let shared = if *run == (0..self.layers.len()) { self.shared } else { 0 };
        self.layers[run.clone()].iter().sum::<u64>() + first + last - shared
    }

    /// Returns the bytes to place: those of the weights, of a step, and of the least cache of each layer, with
    /// `cache_per_position` bytes a position.
    pub fn costs(&self, cache_per_position: u64, step: &StepSize) -> Costs {
        let cache = cache_per_position * u64::from(step.context_length.min(LEAST_CONTEXT));
        Costs {
            layers: self.layers.iter().map(|bytes| bytes + cache).collect(),
            before: self.embedding,
            after: self.output,
            shared: self.shared,
            working: step.working_bytes,
        }
    }
}

/// Returns true for a mixture's router, which [`crate::layers::SparseMoe`] has whole and exact on every rank.
fn is_router(name: &str) -> bool {
    name.ends_with(".gate.weight")
}

/// Size of the largest step.
#[derive(Debug, Clone, Copy)]
pub struct StepSize {
    pub context_length: u32,
    /// Bytes beside weights and cache, on each device that computes.
    pub working_bytes: u64,
}

impl StepSize {
    /// Estimates a step of `tokens` tokens in all. The step samples for `seqs` sequences. Before or after that it
    /// projects rows of prompts, a piece at a time.
    pub fn estimate(config: &ModelConfig, shard: &Shard, context_length: u32, tokens: u32, seqs: u32) -> Self {
        const FLOAT: usize = size_of::<f32>();
        let (tokens, seqs, context) = (tokens as usize, seqs as usize, context_length as usize);
        let heads = shard.queries.len() + 2 * shard.kv.len();
        let inner = shard.intermediate(config.intermediate_size).len();
        // The stream, its sum and its norm; queries, keys and values, before and after they turn; gate, up and product.
        let row = 4 * config.hidden_size + 3 * heads * config.head_dim + 4 * inner;
        let logits = 2 * seqs.max(ROWS_PER_PIECE) * shard.vocab.len();
        let scores = plain::attention_bytes(shard.queries.len(), config.head_dim, tokens.min(context), context);
        Self { context_length, working_bytes: ((tokens * row + logits) * FLOAT + scores) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::open;
    use candle_core::{Device, Tensor};
    use lockstep_collectives::Grid;

    #[test]
    fn every_byte_is_where_it_is_needed() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let (table, norm, matrix, router) = (zeros(&[40, 32]), zeros(&[32]), zeros(&[32, 32]), zeros(&[4, 32]));
        let model = fixture::folder(&[
            ("model.embed_tokens.weight", &table),
            ("model.layers.0.mlp.up_proj.weight", &matrix),
            ("model.layers.0.mlp.gate.weight", &router),
            ("model.layers.1.input_layernorm.weight", &norm),
            ("model.layers.1.mlp.up_proj.weight", &matrix),
            ("model.norm.weight", &norm),
            ("lm_head.weight", &table),
        ]);
        let weights = Weights::open(open(model.source()).unwrap()).unwrap();
        let mut config = fixture::tiny_config();
        (config.num_layers, config.tie_word_embeddings) = (2, false);
        let sizes = |config: &ModelConfig, grid, dtype, quantized| {
            Sizes::estimate(&weights, config, &Shard::new(config, grid).unwrap(), dtype, quantized)
        };
        let one = Grid::new(0, 1, 1).unwrap();
        let whole = sizes(&config, one, DType::F32, None);
        let expected =
            |layers: [u64; 2], embedding, output| Sizes { layers: layers.into(), embedding, output, shared: 0 };
        // The router stays as it is stored.
        assert_eq!(whole, expected([4096 + 512, 4096 + 128], 5120, 5120 + 128));
        let half = sizes(&config, one, DType::BF16, None);
        assert_eq!(half, expected([2048 + 512, 2048 + 128], 2560, 2560 + 128));
        let quantized = sizes(&config, one, DType::F32, Some(BlockFormat::Q8_0));
        assert_eq!(quantized, expected([1088 + 512, 1088 + 128], 5120, 40 * 34 + 128));
        let stage = |rank| sizes(&config, Grid::new(rank, 4, 2).unwrap(), DType::F32, None);
        // Every rank has the whole router.
        assert_eq!(stage(0), Sizes { layers: vec![2048 + 512], embedding: 2560, ..Sizes::default() });
        assert_eq!(stage(2), Sizes { layers: vec![2048 + 128], output: 2560 + 128, ..Sizes::default() });

        config.tie_word_embeddings = true;
        let tied = sizes(&config, one, DType::F32, None);
        assert_eq!(tied, Sizes { shared: 5120, ..whole.clone() });
        assert_eq!(
            (tied.run_bytes(&(0..2)), tied.run_bytes(&(0..1))),
            (whole.run_bytes(&(0..2)) - 5120, whole.run_bytes(&(0..1)))
        );
        // A projection that is quantized while loading is no table any more.
        assert_eq!(sizes(&config, one, DType::F32, Some(BlockFormat::Q8_0)), quantized);
        let last = sizes(&config, Grid::new(1, 2, 2).unwrap(), DType::F32, None);
        assert_eq!((last.output, last.shared), (5120 + 128, 0));
    }
}
