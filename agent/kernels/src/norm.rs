//! RMSNorm (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>), alone and after a residual sum.

use candle_core::Tensor;

use crate::context::Context;
use crate::error::Result;
use crate::shared_slice::SharedSlice;
use crate::simd::{self, Kernel, Simd, map};
use crate::{check, host, plain, rows};

/// Computes `x / sqrt(mean(x²) + eps) · weight` over the last dimension: `x` is `[tokens, dim]`, `weight` is `[dim]`.
///
/// A norm per head is the same on `x` reshaped to `[tokens · heads, head_dim]`.
pub fn rms_norm(ctx: &Context, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (_, dim) = check::rows("x", x)?;
    check::vector("norm weight", weight, dim)?;
    check::same_device("norm weight", weight, x.device())?;
    if !ctx.has_kernels() {
        return plain::rms_norm(ctx, x, weight, eps);
    }
    let mut normed = vec![0.0; x.elem_count()];
    let (input, weight) = (host::borrow("x", x)?, host::borrow("norm weight", weight)?);
    let (input, weight) = (input.f32()?, weight.f32()?);
    let out = SharedSlice::new(&mut normed);
    rows::for_each_row_range(ctx, input.len(), dim, &|elements| {
        let x = &input[elements.clone()];
        // SAFETY: runs of rows do not overlap.
        let normed = unsafe { out.slice_mut(elements) };
        simd::dispatch(ctx, RmsNorm { x, weight, eps, normed });
    });
    host::tensor(normed, x.shape())
}

/// Computes `sum = x + residual` and its RMSNorm; returns `(sum, normed)`, both `[tokens, dim]`.
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
    check::same_device("residual", residual, x.device())?;
    check::vector("norm weight", weight, dim)?;
    check::same_device("norm weight", weight, x.device())?;
    if !ctx.has_kernels() {
        return plain::add_rms_norm(ctx, x, residual, weight, eps);
    }
    let (mut sum, mut normed) = (vec![0.0; x.elem_count()], vec![0.0; x.elem_count()]);
    let (input, weight) = (host::borrow("x", x)?, host::borrow("norm weight", weight)?);
    let residual = host::borrow("residual", residual)?;
    let (input, residual, weight) = (input.f32()?, residual.f32()?, weight.f32()?);
    let (sums, out) = (SharedSlice::new(&mut sum), SharedSlice::new(&mut normed));
    rows::for_each_row_range(ctx, input.len(), dim, &|elements| {
        let (x, residual) = (&input[elements.clone()], &residual[elements.clone()]);
        // SAFETY: runs of rows do not overlap.
        let sum = unsafe { sums.slice_mut(elements.clone()) };
        // SAFETY: as above.
        let normed = unsafe { out.slice_mut(elements) };
        simd::dispatch(ctx, AddRmsNorm { x, residual, weight, eps, sum, normed });
    });
    Ok((host::tensor(sum, x.shape())?, host::tensor(normed, x.shape())?))
}

/// RMSNorm of whole rows.
struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f64,
    normed: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.weight.len();
        for (x, normed) in self.x.chunks_exact(dim).zip(self.normed.chunks_exact_mut(dim)) {
            let mean = f64::from(map::sum_of_squares(s, x)) / dim as f64;
            let factor = s.splat((1.0 / (mean + self.eps).sqrt()) as f32);
            map::map(s, [x, self.weight], [normed], |[x, w]| [s.mul(s.mul(x, factor), w)]);
        }
    }
}

/// Sum of whole rows with the residual, then its RMSNorm.
struct AddRmsNorm<'a> {
    x: &'a [f32],
    residual: &'a [f32],
    weight: &'a [f32],
    eps: f64,
    sum: &'a mut [f32],
    normed: &'a mut [f32],
}

impl Kernel for AddRmsNorm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        map::map(s, [self.x, self.residual], [&mut *self.sum], |[x, r]| [s.add(x, r)]);
        RmsNorm { x: self.sum, weight: self.weight, eps: self.eps, normed: self.normed }.run(s);
    }
}
