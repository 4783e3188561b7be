//! A quantized matrix on a device without kernels: blocks in the order of a file, by which candle multiplies.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use super::BlockFormat;
use super::encode::Encoder;
use crate::context::Context;
use crate::error::Result;
use crate::host;

/// Quantized matrix that is some columns of rows of blocks.
#[derive(Debug)]
pub(crate) struct QuantTensor {
    /// Tensor `[out_features, columns of all blocks]`; `None` if it has no element.
    blocks: Option<QTensor>,
    device: Device,
    format: BlockFormat,
    out_features: usize,
    /// Columns of the blocks that belong to the matrix.
    columns: Range<usize>,
}

impl QuantTensor {
    /// Takes rows of blocks as a file has them, like [`super::QuantPanels::from_blocks`], to the context's device.
    pub(crate) fn from_blocks(
        ctx: &Context,
        format: BlockFormat,
        bytes: &[u8],
        out_features: usize,
        columns: Range<usize>,
    ) -> Result<QuantTensor> {
        let width = super::check_blocks(format, bytes, out_features, &columns)? * format.columns();
        let device = ctx.device().clone();
        let blocks = if bytes.is_empty() {
            None
        } else {
            let storage = QStorage::from_data(Cow::Borrowed(bytes), &device, format.ggml()?)?;
            Some(QTensor::new(storage, (out_features, width))?)
        };
        Ok(QuantTensor { blocks, device, format, out_features, columns })
    }

    /// Quantizes a weight to the same numbers as [`super::QuantPanels::quantize`], on the context's device.
    pub(crate) fn quantize(
        ctx: &Context,
        format: BlockFormat,
        weight: &Tensor,
        columns: Range<usize>,
    ) -> Result<QuantTensor> {
        let (out_features, width) = weight.dims2()?;
        let weight = host::borrow("weight", weight)?;
        format.ggml()?;
        let encoder = Encoder::new(ctx, weight.elements()?, width, format, &columns)?;
        let bytes = encoder.encode_all(out_features, columns.end)?;
        QuantTensor::from_blocks(ctx, format, &bytes, out_features, columns)
    }

    /// Computes `x · wᵀ`: `[tokens, in]` to `[tokens, out]`, f32.
    pub(crate) fn multiply(&self, x: &Tensor) -> Result<Tensor> {
        let Some(blocks) = &self.blocks else {
            return Ok(Tensor::zeros((x.dims2()?.0, self.out_features), DType::F32, &self.device)?);
        };
        // The columns of the blocks that lie beyond the matrix are multiplied by zeros.
        let trailing = blocks.shape().dims2()?.1 - self.columns.end;
        let x = x.pad_with_zeros(1, self.columns.start, trailing)?.contiguous()?;
        if self.has_odd_block() {
            return Ok(x.matmul(&blocks.dequantize(&self.device)?.t()?)?);
        }
        Ok(x.apply_op1_no_bwd(blocks)?)
    }

    /// Returns the rows `index` (u32) as f32 `[rows, in]`.
    pub(crate) fn select_rows(&self, index: &Tensor) -> Result<Tensor> {
        match &self.blocks {
            Some(blocks) => self.narrow(&blocks.embedding(index)?),
            None => Ok(Tensor::zeros((index.dims1()?, self.columns.len()), DType::F32, &self.device)?),
        }
    }

    /// Returns the matrix as an f32 tensor `[out_features, in_features]`.
    pub(crate) fn to_tensor(&self) -> Result<Tensor> {
        match &self.blocks {
            Some(blocks) => self.narrow(&blocks.dequantize(&self.device)?),
            None => Ok(Tensor::zeros((self.out_features, self.columns.len()), DType::F32, &self.device)?),
        }
    }

    /// Returns true if a row has an odd number of blocks, in a format whose blocks candle multiplies in pairs on the CPU.
    fn has_odd_block(&self) -> bool {
        let in_pairs = matches!(self.format, BlockFormat::Q4_1 | BlockFormat::Q5_0 | BlockFormat::Q5_1);
        self.device.is_cpu() && in_pairs && !self.columns.end.div_ceil(self.format.columns()).is_multiple_of(2)
    }

    fn narrow(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(rows.to_dtype(DType::F32)?.narrow(1, self.columns.start, self.columns.len())?.contiguous()?)
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn format(&self) -> BlockFormat {
        self.format
    }

    pub(crate) fn in_features(&self) -> usize {
        self.columns.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.blocks.as_ref().map_or(0, QTensor::storage_size_in_bytes)
    }
}
