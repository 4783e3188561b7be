//! A quantized matrix in panels on the CPU: packed from a file's blocks or from numbers, and read back.

use std::ops::Range;

use candle_core::Tensor;

use super::decoded::DecodedBlock;
use super::encode::Encoder;
use super::layout::{BlockLayout, QUADS};
use super::packing::{self, AppendBlocks};
use super::{BlockFormat, GROUP_SIZE, with_layout};
use crate::buffer::Buffer;
use crate::context::Context;
use crate::error::Result;
use crate::host;
use crate::shared_slice::SharedSlice;
use crate::simd::LANES;
use crate::simd::Portable;

/// Quantized matrix whose panel `p` holds the rows `16 p..16 p + 16`, block after block. Rows beyond the matrix are
/// zero.
#[derive(Debug)]
pub(crate) struct QuantPanels {
    buffer: Buffer,
    format: BlockFormat,
    out_features: usize,
    /// Blocks of one row.
    blocks: usize,
    /// Columns of the blocks that belong to the matrix.
    columns: Range<usize>,
    /// Factor of all numbers.
    factor: f32,
}

impl QuantPanels {
    /// Packs rows of blocks as a file has them.
    pub(crate) fn from_blocks(
        ctx: &Context,
        format: BlockFormat,
        bytes: &[u8],
        out_features: usize,
        columns: Range<usize>,
    ) -> Result<QuantPanels> {
        let blocks = super::check_blocks(format, bytes, out_features, &columns)?;
        let row = blocks * format.bytes();
        let mut panels = QuantPanels::empty(format, out_features, blocks, columns)?;
        panels.fill(ctx, &|rows, to| {
            to.extend_from_slice(&bytes[rows.start * row..rows.end * row]);
            Ok(())
        })?;
        Ok(panels)
    }

    /// Quantizes a checked CPU weight in f32, bf16 or f16, whose first column starts a block. The last block is padded
    /// with zeros.
    pub(crate) fn quantize(
        ctx: &Context,
        format: BlockFormat,
        weight: &Tensor,
        columns: Range<usize>,
    ) -> Result<QuantPanels> {
        let (out_features, width) = weight.dims2()?;
        let weight = host::borrow("weight", weight)?;
        let encoder = Encoder::new(ctx, weight.elements()?, width, format, &columns)?;
        let mut panels = QuantPanels::empty(format, out_features, width.div_ceil(format.columns()), columns)?;
        panels.fill(ctx, &|rows, to| encoder.encode_rows(rows, to))?;
        Ok(panels)
    }

    fn empty(format: BlockFormat, out_features: usize, blocks: usize, columns: Range<usize>) -> Result<QuantPanels> {
        let panel = with_layout!(format, L => L::PANEL_BYTES);
        let buffer = Buffer::zeroed(out_features.div_ceil(LANES) * blocks * panel)?;
        Ok(QuantPanels { buffer, format, out_features, blocks, columns, factor: 1.0 })
    }

    /// Packs the blocks that `append` appends for each row block.
    fn fill(&mut self, ctx: &Context, append: &AppendBlocks<'_>) -> Result<()> {
        let (num_rows, blocks) = (self.out_features, self.blocks);
        if blocks == 0 {
            return Ok(());
        }
        let (row_bytes, panel_bytes) =
            with_layout!(self.format, L => (blocks * L::FILE_BYTES, blocks * L::PANEL_BYTES));
        let pack = with_layout!(self.format, L => pack_row::<L> as fn(&[u8], usize, &mut [u8]));
        let shared = SharedSlice::new(self.buffer.as_mut_slice::<u8>());
        packing::for_each_row_block(ctx, num_rows, append, &|rows, bytes| {
            let index = rows.start / LANES;
            // SAFETY: each panel is one part and is visited once.
            let to = unsafe { shared.slice_mut(index * panel_bytes..(index + 1) * panel_bytes) };
            bytes.chunks_exact(row_bytes).enumerate().for_each(|(lane, row)| pack(row, lane, to));
        })
    }

    /// Multiplies all numbers by `factor`.
    pub(crate) fn scaled(self, factor: f32) -> QuantPanels {
        QuantPanels { factor: self.factor * factor, ..self }
    }

    /// Returns the number of panels.
    pub(super) fn num_panels(&self) -> usize {
        self.out_features.div_ceil(LANES)
    }

    /// Returns the bytes of all panels, and the size of one panel.
    pub(super) fn panel_bytes(&self) -> (&[u8], usize) {
        let bytes = self.buffer.as_slice::<u8>();
        (bytes, bytes.len() / self.num_panels().max(1))
    }

    pub(crate) fn format(&self) -> BlockFormat {
        self.format
    }

    pub(super) fn factor(&self) -> f32 {
        self.factor
    }

    pub(super) fn out_features(&self) -> usize {
        self.out_features
    }

    pub(crate) fn in_features(&self) -> usize {
        self.columns.len()
    }

    /// Returns the number of columns of the first block that come before the matrix.
    pub(super) fn lead(&self) -> usize {
        self.columns.start
    }

    /// Blocks of one row.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// Decodes row `row` to f32, into `to` (`in_features` long).
    pub(crate) fn read_row(&self, row: usize, to: &mut [f32]) {
        with_layout!(self.format, L => self.read_row_as::<L>(row, to));
    }

    fn read_row_as<L: BlockLayout>(&self, row: usize, to: &mut [f32]) {
        let (bytes, length) = self.panel_bytes();
        let panel = &bytes[row / LANES * length..][..length];
        let mut decoded = DecodedBlock::ZERO;
        for (index, mut block) in panel.chunks_exact(L::PANEL_BYTES).enumerate() {
            if L::IS_DECODED {
                L::decode(Portable, block, &mut decoded);
                block = decoded.bytes();
            }
            for group in 0..L::COLUMNS / GROUP_SIZE {
                let first = index * L::COLUMNS + group * GROUP_SIZE;
                let values = dequantize_group::<L>(block, group, row % LANES);
                for (column, value) in (first..).zip(values) {
                    if self.columns.contains(&column) {
                        to[column - self.columns.start] = value * self.factor;
                    }
                }
            }
        }
    }

    /// Returns the matrix as an f32 tensor `[out_features, in_features]`.
    pub(crate) fn to_tensor(&self) -> Result<Tensor> {
        let width = self.in_features();
        let mut elements = vec![0.0; self.out_features * width];
        if width > 0 {
            for (row, to) in elements.chunks_exact_mut(width).enumerate() {
                self.read_row(row, to);
            }
        }
        host::tensor(elements, (self.out_features, width))
    }
}

fn pack_row<L: BlockLayout>(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (block, to) in row.chunks_exact(L::FILE_BYTES).zip(panel.chunks_exact_mut(L::PANEL_BYTES)) {
        L::pack_block(block, lane, to);
    }
}

/// Decodes one group of 32 numbers of one row.
fn dequantize_group<L: BlockLayout>(block: &[u8], group: usize, lane: usize) -> [f32; GROUP_SIZE] {
    let mut values = [0.0; GROUP_SIZE];
    for half in 0..2 {
        let minimum = if L::HAS_MINIMUMS { L::minimums(Portable, block, group, half)[lane] } else { 0.0 };
        let scale = L::scales(Portable, block, group, half)[lane];
        for quad in 0..QUADS {
            let quants = match half {
                0 => L::unpack_quants::<_, 0>(Portable, block, group, quad),
                _ => L::unpack_quants::<_, 1>(Portable, block, group, quad),
            };
            for i in 0..4 {
                let byte = quants[4 * lane + i];
                let quant = if L::SIGNED { i32::from(byte.cast_signed()) } else { i32::from(byte) - L::ZERO_POINT };
                values[half * GROUP_SIZE / 2 + 4 * quad + i] = scale * quant as f32 - minimum;
            }
        }
    }
    values
}
