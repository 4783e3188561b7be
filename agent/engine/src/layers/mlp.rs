//! The gated feed-forward part: `down(silu(gate(x)) · up(x))`.

use candle_core::Tensor;
use lockstep_kernels::{Activation, gated_mul};

use super::{ColumnParallelLinear, Pass, RowParallelLinear};
use crate::EngineError;
use crate::config::ModelConfig;
use crate::weights::{Loader, RowPart};

/// Each rank holds some of the intermediate dimension.
pub struct GatedMlp {
    gate_up_proj: ColumnParallelLinear,
    down_proj: RowParallelLinear,
}

impl GatedMlp {
    pub fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Self, EngineError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let part = loader.shard().intermediate.clone();
        let gate_up = ["gate_proj", "up_proj"].map(|name| RowPart { name, of: inner, rows: part.clone() });
        Ok(Self {
            gate_up_proj: ColumnParallelLinear::load(loader, &gate_up, hidden, config.mlp_bias)?,
            down_proj: RowParallelLinear::load(loader, "down_proj", [hidden, inner], part, config.mlp_bias)?,
        })
    }

    pub fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let gate_up = self.gate_up_proj.forward(pass, x)?;
        let inner = gated_mul(pass.kernels, &gate_up, Activation::Silu)?;
        pass.tick();
        self.down_proj.forward(pass, &inner)
    }
}
