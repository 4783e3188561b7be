//! One rank's part of a model. A stage may have any number of ranks up to the number of query heads, and nothing has to
//! divide evenly. There may be as many stages as layers.
//!
//! Layers go to stages in contiguous ranges. The first stage also has the embedding, the last stage the final norm and the
//! output projection. Within a stage every rank has a part of each layer.
//!
//! Query heads go to ranks in contiguous ranges. A rank keeps every KV head that its range touches, so two neighbours may
//! both keep the KV head between them. Every other dimension is split as evenly as it can be.

use std::ops::Range;

use lockstep_collectives::{Grid, RankGroup};

use crate::EngineError;
use crate::config::ModelConfig;

/// One rank's part of everything that is split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Place in the stage's tensor-parallel group.
    pub group: RankGroup,
    /// The stage's layers, as indices in the whole model.
    pub layers: Range<usize>,
    /// True if this stage has the embedding.
    pub embeds: bool,
    /// True if this stage has the final norm and the output projection.
    pub projects: bool,
    /// Query heads, as indices in the whole model.
    pub queries: Range<usize>,
    /// KV heads that those query heads use, as indices in the whole model.
    pub kv: Range<usize>,
    /// KV head of each query head of this rank. Both are indices on this rank.
    pub kv_of: Vec<usize>,
    pub vocab: Range<usize>,
}

impl Shard {
    /// Returns the part of one rank.
    ///
    /// # Errors
    /// [`EngineError::WorldSize`] or [`EngineError::Stages`] if a rank would have nothing.
    pub fn new(config: &ModelConfig, grid: Grid) -> Result<Self, EngineError> {
        let (group, stages) = (grid.tensor(), grid.pipeline().world_size());
        if stages > config.num_layers {
            return Err(EngineError::Stages { stages, layers: config.num_layers });
        }
        let largest = largest_world_size(config);
        if group.world_size() > largest {
            return Err(EngineError::WorldSize {
                architecture: config.architecture.name().into(),
                world_size: group.world_size(),
                largest,
                reason: format!(
                    "it has {} query heads, an intermediate size of {} and a vocabulary of {}",
                    config.num_heads,
                    least_intermediate(config),
                    config.vocab_size
                ),
            });
        }
        let queries = group.part_of(config.num_heads);
        let per_kv = config.queries_per_kv();
        let kv = queries.start / per_kv..(queries.end - 1) / per_kv + 1;
        let kv_of = queries.clone().map(|query| query / per_kv - kv.start).collect();
        Ok(Self {
            group,
            layers: grid.layers_of(config.num_layers),
            embeds: grid.is_first_stage(),
            projects: grid.is_last_stage(),
            queries,
            kv,
            kv_of,
            vocab: group.part_of(config.vocab_size),
        })
    }

    /// Returns this rank's part of an intermediate dimension of `size`.
    pub fn intermediate(&self, size: usize) -> Range<usize> {
        self.group.part_of(size)
    }
}

/// Returns the most ranks that one stage of a model can be split over.
pub fn largest_world_size(config: &ModelConfig) -> usize {
    config.num_heads.min(least_intermediate(config)).min(config.vocab_size)
}

/// Returns the least intermediate size of any layer. That of each expert is split too.
fn least_intermediate(config: &ModelConfig) -> usize {
    let dense = config.layers.iter().any(|layer| !layer.sparse).then_some(config.intermediate_size);
    let sparse = config.moe.map(|moe| moe.intermediate_size);
    dense.into_iter().chain(sparse).min().unwrap_or(config.intermediate_size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use proptest::prelude::*;

    fn config(num_heads: usize, num_kv_heads: usize) -> ModelConfig {
        let mut config = fixture::tiny_config();
        (config.num_heads, config.num_kv_heads) = (num_heads, num_kv_heads);
        config
    }

    #[test]
    fn a_rank_keeps_every_kv_head_that_it_touches() {
        let config = config(6, 2);
        let shard = |rank| Shard::new(&config, RankGroup::new(rank, 4).unwrap().into()).unwrap();
        let seen: Vec<_> = (0..4).map(shard).map(|shard| (shard.queries, shard.kv, shard.kv_of)).collect();
        let expected =
            [(0..1, 0..1, vec![0]), (1..3, 0..1, vec![0, 0]), (3..4, 1..2, vec![0]), (4..6, 1..2, vec![0, 0])];
        assert_eq!(seen, expected);
    }

    #[test]
    fn too_many_ranks_are_told_how_many_fit() {
        let message = Shard::new(&config(6, 2), RankGroup::new(0, 7).unwrap().into()).unwrap_err().to_string();
        assert!(message.contains("over 7 ranks") && message.contains("the largest world size is 6"), "{message}");
    }

    #[test]
    fn stages_have_their_layers_and_the_ends_what_belongs_there() {
        let mut config = fixture::tiny_config();
        config.num_layers = 5;
        let shard = |rank| Shard::new(&config, Grid::new(rank, 6, 3).unwrap()).unwrap();
        let seen: Vec<_> =
            [0, 3, 4].map(shard).map(|shard| (shard.group.rank(), shard.layers, shard.embeds, shard.projects)).into();
        assert_eq!(seen, [(0, 0..2, true, false), (1, 2..4, false, false), (0, 4..5, false, true)]);
        let message = Shard::new(&config, Grid::new(0, 6, 6).unwrap()).unwrap_err().to_string();
        assert!(message.contains("5 layers") && message.contains("6 pipeline stages"), "{message}");
    }

    proptest! {
        #[test]
        fn parts_cover_everything_once(kv in 1usize..9, per_kv in 1usize..9, world in 1usize..16) {
            let config = config(kv * per_kv, kv);
            prop_assume!(world <= largest_world_size(&config));
            let mut ends = (0, 0, 0);
            for rank in 0..world {
                let shard = Shard::new(&config, RankGroup::new(rank, world).unwrap().into()).unwrap();
                let intermediate = shard.intermediate(config.intermediate_size);
                prop_assert_eq!((shard.queries.start, intermediate.start, shard.vocab.start), ends);
                prop_assert!(!shard.queries.is_empty() && !intermediate.is_empty() && !shard.vocab.is_empty());
                for (local, query) in shard.queries.clone().enumerate() {
                    prop_assert_eq!(shard.kv.start + shard.kv_of[local], query / per_kv);
                    prop_assert!(shard.kv_of[local] < shard.kv.len());
                }
                ends = (shard.queries.end, intermediate.end, shard.vocab.end);
            }
            prop_assert_eq!(ends, (config.num_heads, config.intermediate_size, config.vocab_size));
        }
    }
}
