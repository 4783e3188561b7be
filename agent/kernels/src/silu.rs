//! The gated activation of Llama's feed-forward layer (SwiGLU, Shazeer 2020,
//! <https://arxiv.org/abs/2002.05202>).

use crate::context::Context;
use crate::error::Result;
use crate::{check, plain};
use candle_core::Tensor;

/// `silu(gate) · up`: `gate_up` `[tokens, 2 · inter]`, gate first; returns `[tokens, inter]`.
pub fn silu_mul(ctx: &Context, gate_up: &Tensor) -> Result<Tensor> {
    let (_, width) = check::rows("gate_up", gate_up)?;
    if width % 2 != 0 {
        return check::shape("gate_up", "[tokens, 2 * inter]".to_owned(), gate_up);
    }
    plain::silu_mul(ctx, gate_up)
}
