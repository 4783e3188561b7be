//! Encoding of numbers into blocks as a file has them, with candle's encoder.

use std::ops::Range;

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};

use super::{BlockFormat, packing};
use crate::context::Context;
use crate::error::{Result, argument};
use crate::host::HostElements;
use crate::matrix::format::{Bf16, F16, Format};
use crate::shared_slice::SharedSlice;

/// Rows of a weight, `width` numbers each, to encode. The first number starts a block. The last block is padded with
/// zeros.
pub(super) struct Encoder<'a> {
    elements: HostElements<'a>,
    width: usize,
    format: BlockFormat,
}

impl<'a> Encoder<'a> {
    /// Checks that every row has the wanted `columns`.
    pub(super) fn new(
        elements: HostElements<'a>,
        width: usize,
        format: BlockFormat,
        columns: &Range<usize>,
    ) -> Result<Encoder<'a>> {
        if columns.end > width {
            return argument("columns", format!("{columns:?} exceed the {width} columns of the weight"));
        }
        Ok(Encoder { elements, width, format })
    }

    /// Returns the blocks of `rows` rows, each up to the block of the last column before `end`.
    pub(super) fn encode_all(&self, ctx: &Context, rows: usize, end: usize) -> Result<Vec<u8>> {
        let bytes_of = |width: usize| width.div_ceil(self.format.columns()) * self.format.bytes();
        let (row_bytes, kept_bytes) = (bytes_of(self.width), bytes_of(end));
        let mut bytes = vec![0; rows * kept_bytes];
        let shared = SharedSlice::new(&mut bytes);
        packing::for_each_row_block(ctx, rows, &|rows, to| self.encode_rows(rows, to), &|rows, encoded| {
            for (row, encoded) in rows.zip(encoded.chunks_exact(row_bytes.max(1))) {
                // SAFETY: each row is one part and is visited once.
                let to = unsafe { shared.slice_mut(row * kept_bytes..(row + 1) * kept_bytes) };
                to.copy_from_slice(&encoded[..kept_bytes]);
            }
        })?;
        Ok(bytes)
    }

    /// Appends the blocks of some rows. Fails if a number is not finite.
    pub(super) fn encode_rows(&self, rows: Range<usize>, to: &mut Vec<u8>) -> Result<()> {
        let width = self.width;
        let padded = width.next_multiple_of(self.format.columns());
        let mut wide = vec![0.0; rows.len() * padded];
        for (row, wide) in rows.clone().zip(wide.chunks_exact_mut(padded.max(1))) {
            let part = row * width..(row + 1) * width;
            match &self.elements {
                HostElements::F32(elements) => wide[..width].copy_from_slice(&elements[part]),
                HostElements::Bf16(elements) => widen::<Bf16>(&elements[part], wide),
                HostElements::F16(elements) => widen::<F16>(&elements[part], wide),
            }
        }
        if let Some(place) = wide.iter().position(|x| !x.is_finite()) {
            let (row, column) = (rows.start + place / padded, place % padded);
            return argument("weight", format!("row {row}, column {column} is not finite: it cannot be quantized"));
        }
        let rows = Tensor::from_vec(wide, (rows.len(), padded), &Device::Cpu)?;
        to.extend_from_slice(&QTensor::quantize(&rows, self.format.ggml()?)?.data()?);
        Ok(())
    }
}

fn widen<F: Format>(row: &[F::Element], to: &mut [f32]) {
    to.iter_mut().zip(row).for_each(|(to, element)| *to = F::decode(*element));
}
