//! Encoding of numbers into blocks as a file has them.
//!
//! Candle encodes the formats of 32 columns that have one way to be made. The encoders here search for the scales with which a
//! block is closest to its numbers. Their errors are no greater than those of llama.cpp's quantizer.

mod fit;
mod k_quants;
mod super_block;
mod tables;
mod ternary;

use std::marker::PhantomData;
use std::ops::Range;

use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};
use half::f16;

use super::layout::BlockLayout;
use super::q2_k::{Q2K, Q3K};
use super::q4_k::{Q4K, Q5K};
use super::q6_k::Q6K;
use super::tables::{Iq4Nl, Iq4Xs, Mxfp4};
use super::ternary::{Tq1_0, Tq2_0};
use super::{BlockFormat, packing};
use crate::context::Context;
use crate::error::{Result, argument};
use crate::host::HostElements;
use crate::matrix::format::{Bf16, F16, Format};
use crate::shared_slice::SharedSlice;
use crate::simd::{Kernel, Simd, dispatch};

/// Encoder of a format.
trait BlockEncoder: BlockLayout {
    /// Writes the block of as many numbers as it has columns.
    fn encode(x: &[f32], block: &mut [u8]);
}

/// Encoding of numbers, compiled for each instruction set.
struct EncodeBlocks<'a, L> {
    x: &'a [f32],
    to: &'a mut [u8],
    layout: PhantomData<L>,
}

impl<L: BlockEncoder> Kernel for EncodeBlocks<'_, L> {
    #[inline(always)]
    fn run<S: Simd>(self, _s: S) {
        for (x, block) in self.x.chunks_exact(L::COLUMNS).zip(self.to.chunks_exact_mut(L::FILE_BYTES)) {
            L::encode(x, block);
        }
    }
}

/// Returns the bytes of two f16, one after the other.
fn f16_bytes([first, second]: [f16; 2]) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_le_bytes(), second.to_le_bytes());
    [a, b, c, d]
}

/// Rows of a weight, `width` numbers each, to encode. The first number starts a block. The last block is padded with
/// zeros.
pub(super) struct Encoder<'a> {
    ctx: &'a Context,
    elements: HostElements<'a>,
    width: usize,
    format: BlockFormat,
}

impl<'a> Encoder<'a> {
    /// Checks that every row has the wanted `columns`.
    pub(super) fn new(
        ctx: &'a Context,
        elements: HostElements<'a>,
        width: usize,
        format: BlockFormat,
        columns: &Range<usize>,
    ) -> Result<Encoder<'a>> {
        if columns.end > width {
            return argument("columns", format!("{columns:?} exceed the {width} columns of the weight"));
        }
        if !format.is_encodable() {
            return argument("format", format!("{} is read from files, and is not made while loading", format.name()));
        }
        Ok(Encoder { ctx, elements, width, format })
    }

    /// Returns the blocks of `rows` rows, each up to the block of the last column before `end`.
    pub(super) fn encode_all(&self, rows: usize, end: usize) -> Result<Vec<u8>> {
        let bytes_of = |width: usize| width.div_ceil(self.format.columns()) * self.format.bytes();
        let (row_bytes, kept_bytes) = (bytes_of(self.width), bytes_of(end));
        let mut bytes = vec![0; rows * kept_bytes];
        let shared = SharedSlice::new(&mut bytes);
        packing::for_each_row_block(self.ctx, rows, &|rows, to| self.encode_rows(rows, to), &|rows, encoded| {
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
        match self.format {
            BlockFormat::Q2K => self.encode_blocks::<Q2K>(&wide, to),
            BlockFormat::Q3K => self.encode_blocks::<Q3K>(&wide, to),
            BlockFormat::Q4K => self.encode_blocks::<Q4K>(&wide, to),
            BlockFormat::Q5K => self.encode_blocks::<Q5K>(&wide, to),
            BlockFormat::Q6K => self.encode_blocks::<Q6K>(&wide, to),
            BlockFormat::Iq4Nl => self.encode_blocks::<Iq4Nl>(&wide, to),
            BlockFormat::Iq4Xs => self.encode_blocks::<Iq4Xs>(&wide, to),
            BlockFormat::Mxfp4 => self.encode_blocks::<Mxfp4>(&wide, to),
            BlockFormat::Tq1_0 => self.encode_blocks::<Tq1_0>(&wide, to),
            BlockFormat::Tq2_0 => self.encode_blocks::<Tq2_0>(&wide, to),
            _ => {
                let rows = Tensor::from_vec(wide, (rows.len(), padded), &Device::Cpu)?;
                to.extend_from_slice(&QTensor::quantize(&rows, self.format.ggml()?)?.data()?);
            }
        }
        Ok(())
    }

    /// Appends the blocks of whole blocks of numbers.
    fn encode_blocks<L: BlockEncoder>(&self, x: &[f32], to: &mut Vec<u8>) {
        let start = to.len();
        to.resize(start + x.len() / L::COLUMNS * L::FILE_BYTES, 0);
        dispatch(self.ctx, EncodeBlocks::<L> { x, to: &mut to[start..], layout: PhantomData });
    }
}

fn widen<F: Format>(row: &[F::Element], to: &mut [f32]) {
    to.iter_mut().zip(row).for_each(|(to, element)| *to = F::decode(*element));
}
