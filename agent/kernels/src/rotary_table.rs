//! The table of angles of a rotary position embedding.

use candle_core::Tensor;

use crate::check;
use crate::error::Result;

/// Cosines and sines of every position, `[max_position, rotary_dim / 2]` f32 each.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    cos: Tensor,
    sin: Tensor,
}

impl RotaryTable {
    /// Creates a table from two tensors of one shape.
    pub fn new(cos: Tensor, sin: Tensor) -> Result<RotaryTable> {
        check::rows("rotary cos", &cos)?;
        check::rows("rotary sin", &sin)?;
        check::same_shape("rotary sin", &sin, cos.dims())?;
        Ok(RotaryTable { cos, sin })
    }

    /// Returns the cosines `[max_position, rotary_dim / 2]`.
    pub fn cos(&self) -> &Tensor {
        &self.cos
    }

    /// Returns the sines `[max_position, rotary_dim / 2]`.
    pub fn sin(&self) -> &Tensor {
        &self.sin
    }

    /// Returns the number of positions in the table: it knows `0..max_position`.
    pub fn max_position(&self) -> usize {
        self.cos.dims()[0]
    }

    /// Returns the number of leading dimensions of a head that are rotated. The rest passes through.
    pub fn rotary_dim(&self) -> usize {
        2 * self.cos.dims()[1]
    }
}
