//! Rotary position embedding, half-split (NeoX) style (Su et al. 2021, <https://arxiv.org/abs/2104.09864>).

use crate::context::Context;
use crate::error::{Result, argument};
use crate::{check, plain};
use candle_core::Tensor;

/// Cosines and sines of every position, `[max_position, rotary_dim / 2]` f32 each.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    cos: Tensor,
    sin: Tensor,
}

impl RotaryTable {
    /// A table from two tensors of one shape.
    pub fn new(cos: Tensor, sin: Tensor) -> Result<RotaryTable> {
        check::rows("rotary cos", &cos)?;
        check::rows("rotary sin", &sin)?;
        check::same_shape("rotary sin", &sin, cos.dims())?;
        Ok(RotaryTable { cos, sin })
    }

    /// Cosines `[max_position, rotary_dim / 2]`.
    pub fn cos(&self) -> &Tensor {
        &self.cos
    }

    /// Sines `[max_position, rotary_dim / 2]`.
    pub fn sin(&self) -> &Tensor {
        &self.sin
    }

    /// Positions that the table knows: `0..max_position`.
    pub fn max_position(&self) -> usize {
        self.cos.dims()[0]
    }

    /// Leading dimensions of a head that turn; the rest passes through.
    pub fn rotary_dim(&self) -> usize {
        2 * self.cos.dims()[1]
    }
}

/// Turns each head of `x` `[tokens, heads, head_dim]` by its token's position; one position per token.
pub fn rotary(ctx: &Context, x: &Tensor, table: &RotaryTable, positions: &[u32]) -> Result<Tensor> {
    let (tokens, _, head_dim) = check::heads("x", x)?;
    if table.rotary_dim() > head_dim {
        return check::shape("x", format!("[.., at least {}]", table.rotary_dim()), x);
    }
    if positions.len() != tokens {
        return argument("positions", format!("{} for {tokens} tokens", positions.len()));
    }
    if let Some(position) = positions.iter().find(|p| **p as usize >= table.max_position()) {
        let limit = table.max_position();
        return argument("positions", format!("{position} is beyond the table's {limit}"));
    }
    plain::rotary(ctx, x, table, positions)
}
