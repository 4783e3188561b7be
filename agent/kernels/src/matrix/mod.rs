//! Weight matrices, repacked once at load, and the product with activations.

use crate::context::Context;
use crate::error::Result;
use crate::{check, plain};
use candle_core::{DType, Tensor};

/// A weight `[out_features, in_features]` in the order that the device's product reads it.
///
/// It keeps its memory format: bf16 stays bf16, f16 stays f16, f32 stays f32.
#[derive(Debug, Clone)]
pub struct Matrix {
    out_features: usize,
    in_features: usize,
    weight: Tensor,
}

impl Matrix {
    /// Takes a contiguous `weight` `[out_features, in_features]` in f32, bf16 or f16.
    pub fn new(_ctx: &Context, weight: &Tensor) -> Result<Matrix> {
        let (out_features, in_features) = check::weight("weight", weight)?;
        Ok(Matrix { out_features, in_features, weight: weight.clone() })
    }

    /// Rows of the weight: the width of the product.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Columns of the weight: the width of the activations.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// The format of the weights in memory.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// Memory that the weights take, padding included.
    pub fn bytes(&self) -> usize {
        self.out_features * self.in_features * self.dtype().size_in_bytes()
    }

    /// The weight as a tensor `[out_features, in_features]` in its own dtype.
    pub fn to_tensor(&self) -> Result<Tensor> {
        Ok(self.weight.clone())
    }
}

/// `x · wᵀ + bias`: `x` `[tokens, in]` f32, `bias` `[out]` f32; returns `[tokens, out]` f32.
///
/// With f32 weights on CPU each output is one sequential fused multiply-add chain over `in`, so it is
/// bit-identical for any number of rows, threads and instruction set; with bf16 and f16 weights sums
/// are f32 too.
pub fn linear(ctx: &Context, x: &Tensor, w: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
    let (_, columns) = check::rows("x", x)?;
    if columns != w.in_features {
        return check::shape("x", format!("[tokens, {}]", w.in_features), x);
    }
    check::same_device("x", x, w.weight.device())?;
    if let Some(bias) = bias {
        check::vector("bias", bias, w.out_features)?;
    }
    plain::linear(ctx, x, w, bias)
}
