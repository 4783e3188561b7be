//! Weight matrices, repacked once at load, and the product with activations.

pub(crate) mod format;
mod linear;
mod panels;
pub(crate) mod tile;

use crate::context::Context;
use crate::error::Result;
use crate::{check, host, plain};
use candle_core::{DType, Tensor};
use panels::Panels;
use std::sync::Arc;

/// A weight `[out_features, in_features]` in the order that the device's product reads it.
///
/// It keeps its memory format: bf16 stays bf16, f16 stays f16, f32 stays f32. Cheap to clone; clones
/// share the memory. Packed for one context, it serves contexts of any instruction set.
#[derive(Debug, Clone)]
pub struct Matrix {
    out_features: usize,
    in_features: usize,
    weights: Weights,
}

/// Where the numbers are.
#[derive(Debug, Clone)]
enum Weights {
    /// Panels in the host's memory.
    Panels(Arc<Panels>),
    /// The tensor as it came, for devices without kernels.
    Tensor(Tensor),
}

impl Matrix {
    /// Takes a contiguous `weight` `[out_features, in_features]` in f32, bf16 or f16; on CPU its
    /// numbers are copied, so the tensor can go.
    pub fn new(ctx: &Context, weight: &Tensor) -> Result<Matrix> {
        let (out_features, in_features) = check::weight("weight", weight)?;
        let weights = match weight.device().is_cpu() {
            true => Weights::Panels(Arc::new(Panels::pack(ctx, weight)?)),
            false => Weights::Tensor(weight.clone()),
        };
        Ok(Matrix { out_features, in_features, weights })
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
        match &self.weights {
            Weights::Panels(panels) => panels.dtype(),
            Weights::Tensor(tensor) => tensor.dtype(),
        }
    }

    /// Memory that the weights take, padding included.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Panels(panels) => panels.bytes(),
            Weights::Tensor(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
        }
    }

    /// The weight as a tensor `[out_features, in_features]` in its own dtype; a copy, if packed.
    pub fn to_tensor(&self) -> Result<Tensor> {
        match &self.weights {
            Weights::Panels(panels) => panels.to_tensor(),
            Weights::Tensor(tensor) => Ok(tensor.clone()),
        }
    }

    /// The panels, where the matrix is packed.
    pub(crate) fn panels(&self) -> Option<&Panels> {
        match &self.weights {
            Weights::Panels(panels) => Some(panels),
            Weights::Tensor(_) => None,
        }
    }

    /// That `x` lies where the weights do.
    fn check_device(&self, x: &Tensor) -> Result<()> {
        match &self.weights {
            Weights::Panels(_) => check::same_device("x", x, &candle_core::Device::Cpu),
            Weights::Tensor(tensor) => check::same_device("x", x, tensor.device()),
        }
    }
}

/// `x · wᵀ + bias`: `x` `[tokens, in]` f32, `bias` `[out]` f32; returns `[tokens, out]` f32.
///
/// On CPU each output is one sequential chain of fused multiply-adds over `in`, in f32 and, with the
/// weights widened exactly, for bf16 and f16 weights too; then the bias is added. So outputs are
/// bit-identical for any number of rows, threads and instruction set.
pub fn linear(ctx: &Context, x: &Tensor, w: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
    let (tokens, columns) = check::rows("x", x)?;
    if columns != w.in_features {
        return check::shape("x", format!("[tokens, {}]", w.in_features), x);
    }
    w.check_device(x)?;
    if let Some(bias) = bias {
        check::vector("bias", bias, w.out_features)?;
        check::same_device("bias", bias, x.device())?;
    }
    let Some(panels) = w.panels() else {
        return plain::linear(ctx, x, w, bias);
    };
    let x = host::borrow("x", x)?;
    let bias = bias.map(|bias| host::borrow("bias", bias)).transpose()?;
    let bias = bias.as_ref().map(|bias| bias.f32()).transpose()?;
    let out = linear::product(ctx, x.f32()?, tokens, panels, bias);
    host::tensor(out, (tokens, w.out_features))
}
