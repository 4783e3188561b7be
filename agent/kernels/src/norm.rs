//! RMSNorm (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>), alone and after a residual sum.

use crate::context::Context;
use crate::error::Result;
use crate::{check, plain};
use candle_core::Tensor;

/// `x / sqrt(mean(x²) + eps) · weight` over the last dimension: `x` `[tokens, dim]`, `weight` `[dim]`.
///
/// A norm per head is the same on `x` reshaped to `[tokens · heads, head_dim]`.
pub fn rms_norm(ctx: &Context, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (_, dim) = check::rows("x", x)?;
    check::vector("norm weight", weight, dim)?;
    plain::rms_norm(ctx, x, weight, eps)
}

/// `sum = x + residual` and its RMSNorm; returns `(sum, normed)`, both `[tokens, dim]`.
pub fn add_rms_norm(
    ctx: &Context,
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let (_, dim) = check::rows("x", x)?;
    check::rows("residual", residual)?;
    check::same_shape("residual", residual, x.dims())?;
    check::vector("norm weight", weight, dim)?;
    plain::add_rms_norm(ctx, x, residual, weight, eps)
}
