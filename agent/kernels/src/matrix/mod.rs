//! Weight matrices, repacked once at load, and the product with activations.

pub(crate) mod format;
mod linear;
mod output;
mod panels;
mod quantized;
pub(crate) mod tile;

use crate::context::Context;
use crate::error::{Result, argument};
use crate::shared::Shared;
use crate::{check, host, plain};
use candle_core::{DType, Device, Tensor};
use output::Output;
use panels::Panels;
pub use quantized::BlockFormat;
use quantized::{QuantPanels, QuantTensor};
use std::ops::Range;
use std::sync::Arc;

/// A weight `[out_features, in_features]` in the order that the device's product reads it.
///
/// It keeps its memory format: bf16 stays bf16, f16 stays f16, f32 stays f32, blocks stay blocks. Cheap to clone;
/// clones share the memory. Packed for one context, it serves contexts of any instruction set.
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
    /// Panels of quantized blocks in the host's memory.
    Blocks(Arc<QuantPanels>),
    /// Matrices of one device above one another.
    Stack(Arc<[Matrix]>),
    /// The tensor as it came, for devices without kernels.
    Tensor(Tensor),
    /// Blocks as they came, for devices without kernels.
    Quantized(Arc<QuantTensor>),
}

impl Matrix {
    /// Takes a contiguous `weight` `[out_features, in_features]` in f32, bf16 or f16, from any device to the
    /// context's; kernels copy its numbers, so the tensor can go.
    pub fn new(ctx: &Context, weight: &Tensor) -> Result<Matrix> {
        let (out_features, in_features) = check::weight("weight", weight)?;
        let weight = weight.to_device(ctx.device())?;
        let weights = match ctx.has_kernels() {
            true => Weights::Panels(Arc::new(Panels::pack(ctx, &weight)?)),
            false => Weights::Tensor(weight),
        };
        Ok(Matrix { out_features, in_features, weights })
    }

    /// Quantizes a contiguous `weight` `[out_features, width]` in f32, bf16 or f16 to `format`, and keeps `columns`
    /// of it: the matrix is `[out_features, columns]`, on the context's device. The numbers do not depend on the device.
    ///
    /// The first column of `weight` begins a block. Blocks at the ends of `columns` are kept whole; what they hold
    /// beyond them is multiplied with zeros. A number that is not finite is an error.
    pub fn quantize(ctx: &Context, weight: &Tensor, format: BlockFormat, columns: Range<usize>) -> Result<Matrix> {
        let (out_features, _) = check::weight("weight", weight)?;
        let (weight, columns) = (weight.to_device(&Device::Cpu)?, checked(columns)?);
        Ok(match ctx.has_kernels() {
            true => Matrix::of_panels(out_features, QuantPanels::quantize(ctx, format, &weight, columns)?),
            false => Matrix::of_blocks(out_features, QuantTensor::quantize(ctx, format, &weight, columns)?),
        })
    }

    /// Takes `out_features` rows of blocks of `format`, as a GGUF file has them, and keeps `columns` of it, as
    /// [`Matrix::quantize`] does. `bytes` are the blocks up to the one of the last column, row after row.
    pub fn from_blocks(
        ctx: &Context,
        format: BlockFormat,
        bytes: &[u8],
        out_features: usize,
        columns: Range<usize>,
    ) -> Result<Matrix> {
        let columns = checked(columns)?;
        Ok(match ctx.has_kernels() {
            true => {
                let panels = QuantPanels::from_blocks(ctx, format, bytes, out_features, columns)?;
                Matrix::of_panels(out_features, panels)
            }
            false => {
                let blocks = QuantTensor::from_blocks(ctx, format, bytes, out_features, columns)?;
                Matrix::of_blocks(out_features, blocks)
            }
        })
    }

    fn of_panels(out_features: usize, panels: QuantPanels) -> Matrix {
        let in_features = panels.in_features();
        Matrix { out_features, in_features, weights: Weights::Blocks(Arc::new(panels)) }
    }

    fn of_blocks(out_features: usize, blocks: QuantTensor) -> Matrix {
        let in_features = blocks.in_features();
        Matrix { out_features, in_features, weights: Weights::Quantized(Arc::new(blocks)) }
    }

    /// Matrices of the same width above one another, each in its own format.
    pub fn stack(parts: Vec<Matrix>) -> Result<Matrix> {
        let in_features = match parts.as_slice() {
            [] => return argument("stack", "no matrix"),
            [first, ..] => first.in_features,
        };
        if let Some(other) = parts.iter().find(|part| part.in_features != in_features) {
            return argument("stack", format!("{} columns above {in_features}", other.in_features));
        }
        if parts.iter().any(|part| part.is_packed() != parts[0].is_packed()) {
            return argument("stack", "matrices of different devices");
        }
        let out_features = parts.iter().map(|part| part.out_features).sum();
        Ok(match <[Matrix; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => Matrix { out_features, in_features, weights: Weights::Stack(parts.into()) },
        })
    }

    /// Rows of the weight: the width of the product.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Columns of the weight: the width of the activations.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// The format of the weights in memory: `f32`, `bf16`, `f16`, `q8_0`, …; several with `+` between them.
    pub fn format(&self) -> String {
        match &self.weights {
            Weights::Panels(panels) => panels.dtype().as_str().to_owned(),
            Weights::Blocks(panels) => panels.format().name().to_owned(),
            Weights::Stack(parts) => parts.iter().map(Matrix::format).collect::<Vec<_>>().join("+"),
            Weights::Tensor(tensor) => tensor.dtype().as_str().to_owned(),
            Weights::Quantized(blocks) => blocks.format().name().to_owned(),
        }
    }

    /// Memory that the weights take, padding included.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Panels(panels) => panels.bytes(),
            Weights::Blocks(panels) => panels.bytes(),
            Weights::Stack(parts) => parts.iter().map(Matrix::bytes).sum(),
            Weights::Tensor(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
            Weights::Quantized(blocks) => blocks.bytes(),
        }
    }

    /// The weight as a tensor `[out_features, in_features]`: in its own dtype, f32 if quantized or stacked; a copy, if
    /// packed.
    pub fn to_tensor(&self) -> Result<Tensor> {
        match &self.weights {
            Weights::Panels(panels) => panels.to_tensor(),
            Weights::Blocks(panels) => panels.to_tensor(),
            Weights::Stack(parts) => {
                let wide = |part: &Matrix| Ok(part.to_tensor()?.to_dtype(DType::F32)?);
                let parts = parts.iter().map(wide).collect::<Result<Vec<_>>>()?;
                Ok(Tensor::cat(&parts, 0)?)
            }
            Weights::Tensor(tensor) => Ok(tensor.clone()),
            Weights::Quantized(blocks) => blocks.to_tensor(),
        }
    }

    /// Whether it lies in the order that kernels read; else candle's operations read it.
    pub(crate) fn is_packed(&self) -> bool {
        match &self.weights {
            Weights::Panels(_) | Weights::Blocks(_) => true,
            Weights::Stack(parts) => parts[0].is_packed(),
            Weights::Tensor(_) | Weights::Quantized(_) => false,
        }
    }

    /// The products of the rows `x` in candle's operations.
    pub(crate) fn plain_product(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Quantized(blocks) => blocks.product(x),
            Weights::Stack(parts) if !self.is_packed() => {
                let products = parts.iter().map(|part| part.plain_product(x)).collect::<Result<Vec<_>>>()?;
                Ok(Tensor::cat(&products, 1)?)
            }
            // GPUs multiply halves fastest, and add up in f32.
            Weights::Tensor(weight) if !weight.device().is_cpu() => {
                Ok(x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(DType::F32)?)
            }
            _ => Ok(x.matmul(&self.to_tensor()?.to_dtype(DType::F32)?.t()?)?),
        }
    }

    /// The rows `index` (u32) as f32 `[rows, in_features]`, in candle's operations.
    pub(crate) fn plain_rows(&self, index: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Quantized(blocks) => blocks.rows(index),
            _ => Ok(self.to_tensor()?.index_select(index, 0)?.to_dtype(DType::F32)?),
        }
    }

    /// Where the weights lie.
    pub(crate) fn device(&self) -> &Device {
        match &self.weights {
            Weights::Panels(_) | Weights::Blocks(_) => &Device::Cpu,
            Weights::Stack(parts) => parts[0].device(),
            Weights::Tensor(tensor) => tensor.device(),
            Weights::Quantized(blocks) => blocks.device(),
        }
    }

    /// Row `row` of a packed matrix as f32, into `to` (`in_features` long).
    pub(crate) fn read_row(&self, mut row: usize, to: &mut [f32]) {
        match &self.weights {
            Weights::Panels(panels) => panels.read_row(row, to),
            Weights::Blocks(panels) => panels.read_row(row, to),
            Weights::Stack(parts) => {
                for part in parts.iter() {
                    if row < part.out_features {
                        return part.read_row(row, to);
                    }
                    row -= part.out_features;
                }
            }
            Weights::Tensor(_) | Weights::Quantized(_) => {}
        }
    }

    /// The products of the rows `x` by a packed matrix.
    fn multiply(&self, ctx: &Context, x: &[f32], output: &Output<'_>) {
        if self.out_features == 0 {
            return;
        }
        match &self.weights {
            Weights::Panels(panels) => linear::multiply(ctx, x, panels, output),
            Weights::Blocks(panels) => quantized::multiply(ctx, x, panels, output),
            Weights::Stack(parts) => {
                let mut output = *output;
                for part in parts.iter() {
                    part.multiply(ctx, x, &output);
                    output.first += part.out_features;
                }
            }
            Weights::Tensor(_) | Weights::Quantized(_) => {}
        }
    }
}

fn checked(columns: Range<usize>) -> Result<Range<usize>> {
    if columns.start > columns.end {
        return argument("columns", format!("{columns:?}"));
    }
    Ok(columns)
}

/// `x · wᵀ + bias`: `x` `[tokens, in]` f32, `bias` `[out]` f32; returns `[tokens, out]` f32.
///
/// On CPU each output is one sequential chain of fused multiply-adds over `in`, in f32 and, with the
/// weights widened exactly, for bf16 and f16 weights too; then the bias is added. So outputs are
/// bit-identical for any number of rows, threads and instruction set. Quantized weights are multiplied with activations
/// rounded to eight bits for every 32 of them, with the same promise; a value is off by at most 1/254 of the greatest
/// of its 32.
pub fn linear(ctx: &Context, x: &Tensor, w: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
    let (tokens, columns) = check::rows("x", x)?;
    if columns != w.in_features {
        return check::shape("x", format!("[tokens, {}]", w.in_features), x);
    }
    check::same_device("x", x, w.device())?;
    if let Some(bias) = bias {
        check::vector("bias", bias, w.out_features)?;
        check::same_device("bias", bias, x.device())?;
    }
    if !w.is_packed() {
        return plain::linear(ctx, x, w, bias);
    }
    let x = host::borrow("x", x)?;
    let bias = bias.map(|bias| host::borrow("bias", bias)).transpose()?;
    let bias = bias.as_ref().map(|bias| bias.f32()).transpose()?;
    let width = w.out_features;
    let mut out = vec![0.0; tokens * width];
    if tokens > 0 {
        let rows = Shared::new(&mut out);
        w.multiply(ctx, x.f32()?, &Output { rows, width, first: 0, tokens, bias });
    }
    host::tensor(out, (tokens, width))
}
