//! Linear layers: the product of activations and a weight matrix.

use candle_core::Tensor;

use crate::context::Context;
use crate::error::Result;
use crate::matrix::Matrix;
use crate::{check, host, plain};

/// Computes `x · wᵀ + bias`: `x` `[tokens, in]` f32, `bias` `[out]` f32; returns `[tokens, out]` f32.
///
/// On the CPU, each output is one sequential chain of fused multiply-adds over `in` in f32, and then the bias is added.
/// Weights in bf16 and f16 are widened exactly first. So outputs are bit-identical for any number of rows, threads and
/// instruction set.
///
/// For quantized weights, activations are rounded to eight bits, with one scale for every 32 of them. Rounding moves an
/// activation by at most 1/254 of the greatest absolute value among its 32. These outputs are bit-identical in the same
/// way.
pub fn linear(ctx: &Context, x: &Tensor, w: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
    let (tokens, columns) = check::rows("x", x)?;
    if columns != w.in_features() {
        return check::wrong_shape("x", format!("[tokens, {}]", w.in_features()), x);
    }
    check::same_device("x", x, w.device())?;
    if let Some(bias) = bias {
        check::vector("bias", bias, w.out_features())?;
        check::same_device("bias", bias, x.device())?;
    }
    if !w.is_packed() {
        return plain::linear(ctx, x, w, bias);
    }
    let x = host::borrow("x", x)?;
    let bias = bias.map(|bias| host::borrow("bias", bias)).transpose()?;
    let bias = bias.as_ref().map(|bias| bias.f32()).transpose()?;
    let out = w.multiply(ctx, x.f32()?, tokens, bias);
    host::tensor(out, (tokens, w.out_features()))
}
