//! Weight matrices, packed once at load for their product with activations.

mod coded;
pub(crate) mod format;
mod gemm;
mod output;
mod panels;
mod quantized;
pub(crate) mod tile;
mod tiling;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::check;
use crate::context::Context;
use crate::error::{Result, argument};
use crate::host;
use crate::shared_slice::SharedSlice;
pub use coded::{Code, CodedWeight};
use coded::{CodedPanels, CodedTensor};
use output::OutputColumns;
use panels::Panels;
pub use quantized::BlockFormat;
use quantized::{QuantPanels, QuantTensor};

/// A weight `[out_features, in_features]` in the order that the device's product reads it.
///
/// The weight keeps its memory format: bf16 stays bf16, f16 stays f16, f32 stays f32, blocks stay blocks. A matrix is
/// cheap to clone; clones share the memory. A matrix that was packed for one context serves contexts of any instruction
/// set.
#[derive(Debug, Clone)]
pub struct Matrix {
    out_features: usize,
    in_features: usize,
    weights: MatrixStorage,
}

/// Storage of the numbers.
#[derive(Debug, Clone)]
enum MatrixStorage {
    /// Panels in the host's memory.
    Panels(Arc<Panels>),
    /// Panels of quantized blocks in the host's memory.
    Blocks(Arc<QuantPanels>),
    /// Panels of codes in the host's memory.
    Codes(Arc<CodedPanels>),
    /// Matrices of one device, stacked by rows.
    Stack(Arc<[Matrix]>),
    /// The tensor as it was given, for devices without kernels.
    Tensor(Tensor),
    /// Blocks as they were given, for devices without kernels.
    Quantized(Arc<QuantTensor>),
    /// Codes, for devices without kernels.
    Coded(Arc<CodedTensor>),
}

impl Matrix {
    /// Takes a contiguous `weight` `[out_features, in_features]` in f32, bf16 or f16, and moves it from any device to
    /// the context's. Kernels copy its numbers, so the caller can drop the tensor.
    pub fn new(ctx: &Context, weight: &Tensor) -> Result<Matrix> {
        let (out_features, in_features) = check::weight("weight", weight)?;
        let weight = weight.to_device(ctx.device())?;
        let weights = match ctx.has_kernels() {
            true => MatrixStorage::Panels(Arc::new(Panels::pack(ctx, &weight)?)),
            false => MatrixStorage::Tensor(weight),
        };
        Ok(Matrix { out_features, in_features, weights })
    }

    /// Quantizes a contiguous `weight` `[out_features, width]` in f32, bf16 or f16 to `format`, and keeps `columns` of
    /// it. The matrix is `[out_features, columns]`, on the context's device. The numbers do not depend on the device.
    ///
    /// The first column of `weight` starts a block. Blocks at the ends of `columns` are kept whole; their columns
    /// outside `columns` are multiplied by zeros. A number that is not finite is an error.
    pub fn quantize(ctx: &Context, weight: &Tensor, format: BlockFormat, columns: Range<usize>) -> Result<Matrix> {
        let (out_features, _) = check::weight("weight", weight)?;
        let (weight, columns) = (weight.to_device(&Device::Cpu)?, check_columns(columns)?);
        Ok(match ctx.has_kernels() {
            true => Matrix::from_panels(out_features, QuantPanels::quantize(ctx, format, &weight, columns)?),
            false => Matrix::from_quant_tensor(out_features, QuantTensor::quantize(ctx, format, &weight, columns)?),
        })
    }

    /// Takes `out_features` rows of blocks of `format`, as a GGUF file has them, and keeps `columns` of them, as
    /// [`Matrix::quantize`] does. `bytes` are the blocks up to the one of the last column, row after row.
    pub fn from_blocks(
        ctx: &Context,
        format: BlockFormat,
        bytes: &[u8],
        out_features: usize,
        columns: Range<usize>,
    ) -> Result<Matrix> {
        let columns = check_columns(columns)?;
        Ok(match ctx.has_kernels() {
            true => {
                let panels = QuantPanels::from_blocks(ctx, format, bytes, out_features, columns)?;
                Matrix::from_panels(out_features, panels)
            }
            false => {
                let blocks = QuantTensor::from_blocks(ctx, format, bytes, out_features, columns)?;
                Matrix::from_quant_tensor(out_features, blocks)
            }
        })
    }

    /// Multiplies all numbers of a matrix in blocks by `factor`. Fails for other matrices, for blocks on a device without
    /// kernels, and if clones share the memory.
    pub fn scaled(self, factor: f32) -> Result<Matrix> {
        let Matrix { out_features, weights, .. } = self;
        match weights {
            MatrixStorage::Blocks(panels) => match Arc::try_unwrap(panels) {
                Ok(panels) => Ok(Matrix::from_panels(out_features, panels.scaled(factor))),
                Err(_) => argument("factor", "the matrix is shared"),
            },
            _ => argument("factor", "only blocks on the CPU have a factor of their own"),
        }
    }

    /// Takes a weight in codes, to the context's device.
    ///
    /// Slices that do not fit, bits that are no number and scales that are not finite are errors.
    pub fn from_codes(ctx: &Context, weight: &CodedWeight<'_>) -> Result<Matrix> {
        let weights = match ctx.has_kernels() {
            true => MatrixStorage::Codes(Arc::new(CodedPanels::pack(ctx, weight)?)),
            false => MatrixStorage::Coded(Arc::new(CodedTensor::new(ctx, weight)?)),
        };
        Ok(Matrix { out_features: weight.out_features, in_features: weight.in_features, weights })
    }

    fn from_panels(out_features: usize, panels: QuantPanels) -> Matrix {
        let in_features = panels.in_features();
        Matrix { out_features, in_features, weights: MatrixStorage::Blocks(Arc::new(panels)) }
    }

    fn from_quant_tensor(out_features: usize, blocks: QuantTensor) -> Matrix {
        let in_features = blocks.in_features();
        Matrix { out_features, in_features, weights: MatrixStorage::Quantized(Arc::new(blocks)) }
    }

    /// Stacks matrices of the same width by rows, each in its own format.
    pub fn stack(parts: Vec<Matrix>) -> Result<Matrix> {
        let in_features = match parts.as_slice() {
            [] => return argument("stack", "there is no matrix to stack"),
            [first, ..] => first.in_features,
        };
        if let Some(other) = parts.iter().find(|part| part.in_features != in_features) {
            return argument(
                "stack",
                format!("a matrix of {} columns cannot be stacked on one of {in_features}", other.in_features),
            );
        }
        if parts.iter().any(|part| part.is_packed() != parts[0].is_packed()) {
            return argument("stack", "the matrices are on different devices");
        }
        let out_features = parts.iter().map(|part| part.out_features).sum();
        Ok(match <[Matrix; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => Matrix { out_features, in_features, weights: MatrixStorage::Stack(parts.into()) },
        })
    }

    /// Returns the rows of the weight: the width of the product.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Returns the columns of the weight: the width of the activations.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Returns the format of the weights in memory: `f32`, `bf16`, `f16`, `q8_0`, …; several with `+` between them.
    pub fn format(&self) -> String {
        match &self.weights {
            MatrixStorage::Panels(panels) => panels.dtype().as_str().to_owned(),
            MatrixStorage::Blocks(panels) => panels.format().name().to_owned(),
            MatrixStorage::Stack(parts) => parts.iter().map(Matrix::format).collect::<Vec<_>>().join("+"),
            MatrixStorage::Tensor(tensor) => tensor.dtype().as_str().to_owned(),
            MatrixStorage::Quantized(blocks) => blocks.format().name().to_owned(),
            MatrixStorage::Codes(panels) => panels.format().to_owned(),
            MatrixStorage::Coded(codes) => codes.format().to_owned(),
        }
    }

    /// Returns the bytes that the weights take in memory, with padding.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            MatrixStorage::Panels(panels) => panels.bytes(),
            MatrixStorage::Blocks(panels) => panels.bytes(),
            MatrixStorage::Stack(parts) => parts.iter().map(Matrix::bytes).sum(),
            MatrixStorage::Tensor(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
            MatrixStorage::Quantized(blocks) => blocks.bytes(),
            MatrixStorage::Codes(panels) => panels.bytes(),
            MatrixStorage::Coded(codes) => codes.bytes(),
        }
    }

    /// Returns the weight as a tensor `[out_features, in_features]`: in its own dtype, or in f32 if it is quantized, coded
    /// or stacked. The tensor of a packed matrix is a copy.
    pub fn to_tensor(&self) -> Result<Tensor> {
        match &self.weights {
            MatrixStorage::Panels(panels) => panels.to_tensor(),
            MatrixStorage::Blocks(panels) => panels.to_tensor(),
            MatrixStorage::Stack(parts) => {
                let wide = |part: &Matrix| Ok(part.to_tensor()?.to_dtype(DType::F32)?);
                let parts = parts.iter().map(wide).collect::<Result<Vec<_>>>()?;
                Ok(Tensor::cat(&parts, 0)?)
            }
            MatrixStorage::Tensor(tensor) => Ok(tensor.clone()),
            MatrixStorage::Quantized(blocks) => blocks.to_tensor(),
            MatrixStorage::Codes(panels) => {
                let mut numbers = vec![0.0; self.out_features * self.in_features];
                let rows = numbers.chunks_exact_mut(self.in_features.max(1));
                rows.enumerate().for_each(|(row, to)| panels.read_row(row, to));
                host::tensor(numbers, (self.out_features, self.in_features))
            }
            MatrixStorage::Coded(codes) => codes.to_tensor(),
        }
    }

    /// Returns true if the weight is in the order that kernels read. Otherwise candle's operations read it.
    pub(crate) fn is_packed(&self) -> bool {
        match &self.weights {
            MatrixStorage::Panels(_) | MatrixStorage::Blocks(_) | MatrixStorage::Codes(_) => true,
            MatrixStorage::Stack(parts) => parts[0].is_packed(),
            MatrixStorage::Tensor(_) | MatrixStorage::Quantized(_) | MatrixStorage::Coded(_) => false,
        }
    }

    /// Multiplies the rows `x` by the matrix with candle's operations.
    pub(crate) fn multiply_plain(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weights {
            MatrixStorage::Quantized(blocks) => blocks.multiply(x),
            MatrixStorage::Coded(codes) => codes.multiply(x),
            MatrixStorage::Stack(parts) if !self.is_packed() => {
                let products = parts.iter().map(|part| part.multiply_plain(x)).collect::<Result<Vec<_>>>()?;
                Ok(Tensor::cat(&products, 1)?)
            }
            // GPUs multiply halves fastest, and add up in f32.
            MatrixStorage::Tensor(weight) if !weight.device().is_cpu() => {
                Ok(x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(DType::F32)?)
            }
            _ => Ok(x.matmul(&self.to_tensor()?.to_dtype(DType::F32)?.t()?)?),
        }
    }

    /// Returns the rows `index` (u32) as f32 `[rows, in_features]`, with candle's operations.
    pub(crate) fn select_rows_plain(&self, index: &Tensor) -> Result<Tensor> {
        match &self.weights {
            MatrixStorage::Quantized(blocks) => blocks.select_rows(index),
            MatrixStorage::Coded(codes) => codes.select_rows(index),
            _ => Ok(self.to_tensor()?.index_select(index, 0)?.to_dtype(DType::F32)?),
        }
    }

    /// Returns the device that holds the weights.
    pub(crate) fn device(&self) -> &Device {
        match &self.weights {
            MatrixStorage::Panels(_) | MatrixStorage::Blocks(_) | MatrixStorage::Codes(_) => &Device::Cpu,
            MatrixStorage::Stack(parts) => parts[0].device(),
            MatrixStorage::Tensor(tensor) => tensor.device(),
            MatrixStorage::Quantized(blocks) => blocks.device(),
            MatrixStorage::Coded(codes) => codes.device(),
        }
    }

    /// Decodes row `row` of a packed matrix to f32, into `to` (`in_features` long).
    pub(crate) fn read_row(&self, mut row: usize, to: &mut [f32]) {
        match &self.weights {
            MatrixStorage::Panels(panels) => panels.read_row(row, to),
            MatrixStorage::Blocks(panels) => panels.read_row(row, to),
            MatrixStorage::Codes(panels) => panels.read_row(row, to),
            MatrixStorage::Stack(parts) => {
                for part in parts.iter() {
                    if row < part.out_features {
                        return part.read_row(row, to);
                    }
                    row -= part.out_features;
                }
            }
            MatrixStorage::Tensor(_) | MatrixStorage::Quantized(_) | MatrixStorage::Coded(_) => {}
        }
    }

    /// Multiplies `tokens` rows of activations by a packed matrix and adds the bias; returns `[tokens, out_features]`.
    pub(crate) fn multiply(&self, ctx: &Context, x: &[f32], tokens: usize, bias: Option<&[f32]>) -> Vec<f32> {
        let width = self.out_features;
        let mut out = vec![0.0; tokens * width];
        if tokens > 0 {
            let rows = SharedSlice::new(&mut out);
            self.multiply_into(ctx, x, &OutputColumns { rows, width, first: 0, tokens, bias });
        }
        out
    }

    fn multiply_into(&self, ctx: &Context, x: &[f32], output: &OutputColumns<'_>) {
        if self.out_features == 0 {
            return;
        }
        match &self.weights {
            MatrixStorage::Panels(panels) => gemm::multiply(ctx, x, panels, output),
            MatrixStorage::Blocks(panels) => quantized::multiply(ctx, x, panels, output),
            MatrixStorage::Codes(panels) => coded::multiply(ctx, x, panels, output),
            MatrixStorage::Stack(parts) => {
                let mut output = *output;
                for part in parts.iter() {
                    part.multiply_into(ctx, x, &output);
                    output.first += part.out_features;
                }
            }
            MatrixStorage::Tensor(_) | MatrixStorage::Quantized(_) | MatrixStorage::Coded(_) => {}
        }
    }
}

fn check_columns(columns: Range<usize>) -> Result<Range<usize>> {
    if columns.start > columns.end {
        return argument("columns", format!("{columns:?} end before they start"));
    }
    Ok(columns)
}
