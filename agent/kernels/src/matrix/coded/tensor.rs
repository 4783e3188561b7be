//! A coded matrix on a device without kernels: the bits stay as they are, and candle's operations decode them for each
//! product.

use candle_core::{DType, Device, Tensor};

use super::CodedWeight;
use crate::context::Context;
use crate::error::Result;

/// Coded matrix whose bits are tensors of the device.
#[derive(Debug)]
pub(crate) struct CodedTensor {
    /// Bits `[out_features, bytes of a row]`, u8. A byte of two weights has the even column in its low half.
    bits: Tensor,
    /// Numbers of each of the 256 bytes: `[256, weights in a byte]`.
    numbers: Tensor,
    /// Scales `[out_features, groups]`.
    scales: Tensor,
    /// Zeros like the scales; `None` if all are 0.
    zeros: Option<Tensor>,
    /// Group of each column.
    group_of: Tensor,
    in_features: usize,
    format: &'static str,
}

impl CodedTensor {
    /// Takes a weight to the context's device.
    pub(crate) fn new(ctx: &Context, weight: &CodedWeight<'_>) -> Result<CodedTensor> {
        weight.check()?;
        let device = ctx.device();
        let (rows, columns, per_byte) = (weight.out_features, weight.in_features, weight.code.per_byte());
        let row_bytes = columns.div_ceil(per_byte);
        let mut bits = vec![0u8; rows * row_bytes];
        for (row, bytes) in bits.chunks_exact_mut(row_bytes.max(1)).enumerate() {
            for column in 0..columns {
                bytes[column / per_byte] |= weight.bits_at(row, column) << (column % per_byte * 4);
            }
        }
        let number = |byte: u8, half: usize| weight.code.decode(byte >> (4 * half));
        // A byte of eight bits that is no number is in no weight. It must not spoil the table.
        let finite = |number: f32| if number.is_finite() { number } else { 0.0 };
        let numbers: Vec<f32> =
            (0..=255).flat_map(|byte| (0..per_byte).map(move |half| finite(number(byte, half)))).collect();
        let by_group = |numbers: &[f32]| -> Result<Tensor> {
            Ok(Tensor::from_slice(numbers, (weight.num_groups(), rows), device)?.t()?.contiguous()?)
        };
        Ok(CodedTensor {
            bits: Tensor::from_vec(bits, (rows, row_bytes), device)?,
            numbers: Tensor::from_vec(numbers, (256, per_byte), device)?,
            scales: by_group(weight.scales)?,
            zeros: weight.zeros.map(by_group).transpose()?,
            group_of: Tensor::from_slice(weight.group_of, columns, device)?,
            in_features: columns,
            format: weight.format,
        })
    }

    pub(crate) fn format(&self) -> &'static str {
        self.format
    }

    pub(crate) fn device(&self) -> &Device {
        self.bits.device()
    }

    pub(crate) fn bytes(&self) -> usize {
        let numbers = self.scales.elem_count() + self.zeros.as_ref().map_or(0, Tensor::elem_count);
        self.bits.elem_count() + (numbers + self.in_features) * size_of::<f32>()
    }

    /// Computes `x · wᵀ`: `[tokens, in]` to `[tokens, out]`, f32.
    pub(crate) fn multiply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(&self.to_tensor()?.t()?)?)
    }

    /// Returns the rows `index` (u32) as f32 `[rows, in]`.
    pub(crate) fn select_rows(&self, index: &Tensor) -> Result<Tensor> {
        let rows = |tensor: &Tensor| tensor.index_select(index, 0);
        self.decode(&rows(&self.bits)?, &rows(&self.scales)?, self.zeros.as_ref().map(rows).transpose()?.as_ref())
    }

    /// Returns the matrix as an f32 tensor `[out_features, in_features]`.
    pub(crate) fn to_tensor(&self) -> Result<Tensor> {
        self.decode(&self.bits, &self.scales, self.zeros.as_ref())
    }

    /// Decodes some rows.
    fn decode(&self, bits: &Tensor, scales: &Tensor, zeros: Option<&Tensor>) -> Result<Tensor> {
        let (rows, row_bytes) = bits.dims2()?;
        if rows * row_bytes == 0 {
            return Ok(Tensor::zeros((rows, self.in_features), DType::F32, self.device())?);
        }
        // candle takes the greatest index of a type for none, so a byte cannot be the index.
        let codes = self.numbers.index_select(&bits.flatten_all()?.to_dtype(DType::U32)?, 0)?;
        let codes = codes.reshape((rows, row_bytes * self.numbers.dim(1)?))?.narrow(1, 0, self.in_features)?;
        let by_column = |groups: &Tensor| groups.index_select(&self.group_of, 1);
        let codes = match zeros {
            Some(zeros) => (codes - by_column(zeros)?)?,
            None => codes.contiguous()?,
        };
        Ok((codes * by_column(scales)?)?)
    }
}
