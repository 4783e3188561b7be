//! The gated feed-forward part: `down(activation(gate(x)) · up(x))`.

use candle_core::Tensor;
use lockstep_kernels::{Activation, gated_mul};

use super::{ColumnParallelLinear, Pass, RowParallelLinear, SparseMoe};
use crate::EngineError;
use crate::config::ModelConfig;
use crate::loader::{Loader, RowPart};

/// What the matrices are called.
#[derive(Debug, Clone, Copy)]
pub enum MlpNames {
    /// Gate, up and down each for itself.
    Separate([&'static str; 3]),
    /// `gate_up_proj` holds the gate above the other; and `down_proj`.
    Fused,
}

impl MlpNames {
    /// As most families have them.
    pub const USUAL: Self = Self::Separate(["gate_proj", "up_proj", "down_proj"]);
}

/// Each rank holds some of the intermediate dimension.
pub struct GatedMlp {
    gate_up_proj: ColumnParallelLinear,
    down_proj: RowParallelLinear,
    activation: Activation,
}

impl GatedMlp {
    /// `inner`: the whole intermediate size.
    pub fn load(loader: &Loader<'_>, config: &ModelConfig, names: MlpNames, inner: usize) -> Result<Self, EngineError> {
        let hidden = config.hidden_size;
        let part = loader.shard().intermediate(inner);
        let (gate_up, down) = match names {
            MlpNames::Separate([gate, up, down]) => {
                ([gate, up].map(|name| RowPart { name, of: inner, rows: part.clone() }), down)
            }
            MlpNames::Fused => {
                let rows = |above: usize| above + part.start..above + part.end;
                let gate_up =
                    [0, inner].map(|above| RowPart { name: "gate_up_proj", of: 2 * inner, rows: rows(above) });
                (gate_up, "down_proj")
            }
        };
        Ok(Self {
            gate_up_proj: ColumnParallelLinear::load(loader, &gate_up, hidden, config.mlp.bias)?,
            down_proj: RowParallelLinear::load(loader, down, [hidden, inner], part, config.mlp.bias)?,
            activation: config.activation,
        })
    }

    pub fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let inner = self.inner(pass, x)?;
        self.down_proj.forward(pass, &inner)
    }

    /// This rank's part of the sum that [`GatedMlp::forward`] gives.
    pub fn partial(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let inner = self.inner(pass, x)?;
        self.down_proj.partial(pass, &inner)
    }

    fn inner(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let gate_up = self.gate_up_proj.forward(pass, x)?;
        let inner = gated_mul(pass.kernels, &gate_up, self.activation)?;
        pass.tick();
        Ok(inner)
    }
}

/// The feed-forward part of a block.
pub enum FeedForward {
    Dense(GatedMlp),
    Sparse(SparseMoe),
}

impl FeedForward {
    /// `[tokens, hidden]` to `[tokens, hidden]`.
    pub fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        match self {
            Self::Dense(mlp) => mlp.forward(pass, x),
            Self::Sparse(moe) => moe.forward(pass, x),
        }
    }
}
