//! The gated feed-forward layer: `down(activation(gate(x)) · up(x))`.

use candle_core::Tensor;
use lockstep_kernels::{Activation, gated_mul};

use super::{ColumnParallelLinear, Pass, RowParallelLinear};
use crate::EngineError;
use crate::config::ModelConfig;
use crate::loader::{Loader, RowPart};

/// Names of the matrices of a gated feed-forward layer.
#[derive(Debug, Clone, Copy)]
pub enum MlpNames {
    /// Three matrices: gate, up and down.
    Separate([&'static str; 3]),
    /// Two matrices: `gate_up_proj`, which holds the gate above the up projection, and `down_proj`.
    Fused,
}

impl MlpNames {
    /// Names in most families.
    pub const USUAL: Self = Self::Separate(["gate_proj", "up_proj", "down_proj"]);
}

/// Gated feed-forward layer. Each rank holds its shard of the intermediate dimension.
pub struct GatedMlp {
    gate_up_proj: ColumnParallelLinear,
    down_proj: RowParallelLinear,
    activation: Activation,
}

impl GatedMlp {
    /// Loads the layer. `intermediate` is the whole intermediate size.
    pub fn load(
        loader: &Loader<'_>,
        config: &ModelConfig,
        names: MlpNames,
        intermediate: usize,
    ) -> Result<Self, EngineError> {
        let hidden = config.hidden_size;
        let shard = loader.shard().intermediate(intermediate);
        let (gate_up, down) = match names {
            MlpNames::Separate([gate, up, down]) => {
                ([gate, up].map(|name| RowPart { name, num_rows: intermediate, rows: shard.clone() }), down)
            }
            MlpNames::Fused => {
                let rows = |first_row: usize| first_row + shard.start..first_row + shard.end;
                let gate_up = [0, intermediate].map(|first_row| RowPart {
                    name: "gate_up_proj",
                    num_rows: 2 * intermediate,
                    rows: rows(first_row),
                });
                (gate_up, "down_proj")
            }
        };
        Ok(Self {
            gate_up_proj: ColumnParallelLinear::load(loader, &gate_up, hidden, config.mlp.bias)?,
            down_proj: RowParallelLinear::load(loader, down, [hidden, intermediate], shard, config.mlp.bias)?,
            activation: config.activation,
        })
    }

    pub fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let intermediate = self.forward_gate_up(pass, x)?;
        self.down_proj.forward(pass, &intermediate)
    }

    /// Computes this rank's summand of the output of [`GatedMlp::forward`].
    pub fn forward_partial(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let intermediate = self.forward_gate_up(pass, x)?;
        self.down_proj.forward_partial(pass, &intermediate)
    }

    fn forward_gate_up(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let gate_up = self.gate_up_proj.forward(pass, x)?;
        let intermediate = gated_mul(pass.context, &gate_up, self.activation)?;
        pass.tick();
        Ok(intermediate)
    }
}
