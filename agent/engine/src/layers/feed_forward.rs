//! The feed-forward layer of a block, dense or a mixture of experts.

use candle_core::Tensor;

use super::{GatedMlp, MlpNames, Pass, SparseMoe};
use crate::EngineError;
use crate::config::{LayerConfig, ModelConfig};
use crate::loader::Loader;

/// Feed-forward layer of a block.
pub enum FeedForward {
    Dense(GatedMlp),
    Sparse(SparseMoe),
}

impl FeedForward {
    /// Loads the layer that the configuration gives to the block. `loader` has the place of the block.
    pub fn load(loader: &Loader<'_>, config: &ModelConfig, layer: &LayerConfig) -> Result<Self, EngineError> {
        if let Some(moe) = config.moe.filter(|_| layer.sparse) {
            let names = MlpNames::Separate(moe.projections);
            return Ok(Self::Sparse(SparseMoe::load(&loader.child(moe.prefix), config, moe, names)?));
        }
        let names = if config.mlp.fused_gate_up { MlpNames::Fused } else { MlpNames::USUAL };
        Ok(Self::Dense(GatedMlp::load(&loader.child("mlp"), config, names, config.intermediate_size)?))
    }

    /// Maps `[tokens, hidden]` to `[tokens, hidden]`.
    pub fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        match self {
            Self::Dense(mlp) => mlp.forward(pass, x),
            Self::Sparse(moe) => moe.forward(pass, x),
        }
    }
}
