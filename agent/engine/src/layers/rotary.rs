//! Rotary positions of one pass.
//!
//! The angles are computed for the positions of the batch, once a pass for all layers. That takes some microseconds a
//! token and needs no table as long as the context.

use candle_core::{Device, Tensor};
use lockstep_kernels::{RotaryTable, rotary};

use super::Pass;
use crate::EngineError;
use crate::config::Rope;

/// One RoPE, ready for any position.
#[derive(Debug, Clone)]
pub struct RotaryEmbedding {
    inverse_frequencies: Vec<f32>,
    /// Factor on cosines and sines.
    scale: f32,
}

impl RotaryEmbedding {
    /// Creates the RoPE for `context_length` served positions.
    pub fn new(rope: &Rope, context_length: usize) -> Self {
        Self { inverse_frequencies: rope.inverse_frequencies(context_length), scale: rope.attention_factor() }
    }

    /// Returns cosines and sines, one row for each of `positions`. Angles are rounded to f32 where transformers rounds
    /// them.
    fn table(&self, positions: &[u32], device: &Device) -> Result<RotaryTable, EngineError> {
        #[expect(clippy::cast_precision_loss, reason = "positions are below 2^25; transformers rounds them too")]
        let angles =
            positions.iter().flat_map(|position| self.inverse_frequencies.iter().map(move |f| *position as f32 * f));
        #[expect(clippy::cast_possible_truncation, reason = "rounded to f32 once")]
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles
            .map(|angle| f64::from(angle).sin_cos())
            .map(|(sin, cos)| (cos as f32 * self.scale, sin as f32 * self.scale))
            .unzip();
        let shape = (positions.len(), self.inverse_frequencies.len());
        Ok(RotaryTable::new(Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?)?)
    }
}

/// Tables of a pass, one for each RoPE of the model, in the model's order.
pub struct RotaryTables {
    tables: Vec<RotaryTable>,
    /// Row of the tables for each row of the batch.
    rows: Vec<u32>,
}

impl RotaryTables {
    pub fn new(pass: &Pass<'_>, ropes: &[RotaryEmbedding], device: &Device) -> Result<Self, EngineError> {
        let positions = &pass.batch.positions;
        let rows = (0..u32::try_from(positions.len()).unwrap_or(u32::MAX)).collect();
        Ok(Self { tables: ropes.iter().map(|rope| rope.table(positions, device)).collect::<Result<_, _>>()?, rows })
    }

    /// Rotates each head of `x` `[tokens, heads, head_dim]` by its token's position, with RoPE number `rope`.
    pub fn rotate(&self, pass: &Pass<'_>, x: &Tensor, rope: usize) -> Result<Tensor, EngineError> {
        Ok(rotary(pass.context, x, &self.tables[rope], &self.rows)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RopeScaling;

    #[test]
    fn tables_hold_the_positions_of_the_batch() {
        let rope = Rope { theta: 10_000.0, rotary_dim: 4, scaling: RopeScaling::Linear { factor: 2.0 } };
        let table = RotaryEmbedding::new(&rope, 8).table(&[2, 0, 1 << 24], &Device::Cpu).unwrap();
        assert_eq!(table.cos().dims(), [3, 2]);
        assert_eq!(table.cos().to_vec2::<f32>().unwrap()[1], [1.0, 1.0]);
        let row = table.sin().to_vec2::<f32>().unwrap()[0].clone();
        assert!((row[0] - 1f32.sin()).abs() < 1e-7, "{row:?}");
        assert!((row[1] - 0.01f32.sin()).abs() < 1e-7, "{row:?}");
    }
}
