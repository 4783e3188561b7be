//! From numbers to blocks as a file has them, with candle's encoder.

use super::{BlockFormat, packing};
use crate::context::Context;
use crate::error::{Result, argument};
use crate::host::Elements;
use crate::matrix::format::{Bf16, F16, Format};
use crate::shared::Shared;
use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use std::ops::Range;

/// The rows of a weight, `width` numbers each, in blocks. The first number begins a block; what the last block has
/// beyond the row counts as zeros.
pub(super) struct Encoder<'a> {
    elements: Elements<'a>,
    width: usize,
    format: BlockFormat,
}

impl<'a> Encoder<'a> {
    /// `columns`: those that are wanted of each row.
    pub(super) fn new(
        elements: Elements<'a>,
        width: usize,
        format: BlockFormat,
        columns: &Range<usize>,
    ) -> Result<Encoder<'a>> {
        if columns.end > width {
            return argument("columns", format!("{columns:?} of {width}"));
        }
        Ok(Encoder { elements, width, format })
    }

    /// The blocks of `rows` rows, each up to the block of the last column before `end`.
    pub(super) fn all(&self, ctx: &Context, rows: usize, end: usize) -> Result<Vec<u8>> {
        let bytes_of = |width: usize| width.div_ceil(self.format.columns()) * self.format.bytes();
        let (whole, kept) = (bytes_of(self.width), bytes_of(end));
        let mut bytes = vec![0; rows * kept];
        let shared = Shared::new(&mut bytes);
        packing::each_run(ctx, rows, &|rows, to| self.rows(rows, to), &|rows, encoded| {
            for (row, encoded) in rows.zip(encoded.chunks_exact(whole.max(1))) {
                // SAFETY: each row is one part and is visited once.
                let to = unsafe { shared.part(row * kept..(row + 1) * kept) };
                to.copy_from_slice(&encoded[..kept]);
            }
        })?;
        Ok(bytes)
    }

    /// Appends the blocks of some rows. A number that is not finite is an error.
    pub(super) fn rows(&self, rows: Range<usize>, to: &mut Vec<u8>) -> Result<()> {
        let width = self.width;
        let padded = width.next_multiple_of(self.format.columns());
        let mut wide = vec![0.0; rows.len() * padded];
        for (row, wide) in rows.clone().zip(wide.chunks_exact_mut(padded.max(1))) {
            let part = row * width..(row + 1) * width;
            match &self.elements {
                Elements::F32(elements) => wide[..width].copy_from_slice(&elements[part]),
                Elements::Bf16(elements) => widen::<Bf16>(&elements[part], wide),
                Elements::F16(elements) => widen::<F16>(&elements[part], wide),
            }
        }
        if let Some(place) = wide.iter().position(|x| !x.is_finite()) {
            let (row, column) = (rows.start + place / padded, place % padded);
            return argument("weight", format!("row {row}, column {column} is not finite: it cannot be quantized"));
        }
        let rows = Tensor::from_vec(wide, (rows.len(), padded), &Device::Cpu)?;
        to.extend_from_slice(&QTensor::quantize(&rows, self.format.ggml())?.data()?);
        Ok(())
    }
}

fn widen<F: Format>(row: &[F::Element], to: &mut [f32]) {
    to.iter_mut().zip(row).for_each(|(to, element)| *to = F::decode(*element));
}
