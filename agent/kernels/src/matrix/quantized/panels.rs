//! A quantized matrix in panels on the CPU: made from a file's blocks or from numbers, and read back.

use super::encode::Encoder;
use super::layout::{Layout, QUADS};
use super::packing::{self, ReadRows};
use super::{BlockFormat, GROUP, with_layout};
use crate::buffer::Buffer;
use crate::context::Context;
use crate::error::Result;
use crate::host;
use crate::shared::Shared;
use crate::simd::LANES;
use crate::simd::bytes::PLAIN;
use candle_core::Tensor;
use std::ops::Range;

/// Panel `p` holds the rows `16 p..16 p + 16`, block after block; rows beyond the matrix are zero.
#[derive(Debug)]
pub(crate) struct QuantPanels {
    buffer: Buffer,
    format: BlockFormat,
    out_features: usize,
    /// Blocks of one row.
    blocks: usize,
    /// Which columns of the blocks are the matrix.
    columns: Range<usize>,
}

impl QuantPanels {
    /// From rows of blocks as a file has them.
    pub(crate) fn from_blocks(
        ctx: &Context,
        format: BlockFormat,
        bytes: &[u8],
        out_features: usize,
        columns: Range<usize>,
    ) -> Result<QuantPanels> {
        let blocks = super::blocks_of(format, bytes, out_features, &columns)?;
        let row = blocks * format.bytes();
        let mut panels = QuantPanels::empty(format, out_features, blocks, columns)?;
        panels.fill(ctx, &|rows, to| {
            to.extend_from_slice(&bytes[rows.start * row..rows.end * row]);
            Ok(())
        })?;
        Ok(panels)
    }

    /// From a checked CPU weight in f32, bf16 or f16, whose first column begins a block. What the last block has beyond
    /// it counts as zeros.
    pub(crate) fn quantize(
        ctx: &Context,
        format: BlockFormat,
        weight: &Tensor,
        columns: Range<usize>,
    ) -> Result<QuantPanels> {
        let (out_features, width) = weight.dims2()?;
        let weight = host::borrow("weight", weight)?;
        let encoder = Encoder::new(weight.elements()?, width, format, &columns)?;
        let mut panels = QuantPanels::empty(format, out_features, width.div_ceil(format.columns()), columns)?;
        panels.fill(ctx, &|rows, to| encoder.rows(rows, to))?;
        Ok(panels)
    }

    fn empty(format: BlockFormat, out_features: usize, blocks: usize, columns: Range<usize>) -> Result<QuantPanels> {
        let panel = with_layout!(format, L => L::PANEL);
        let buffer = Buffer::zeroed(out_features.div_ceil(LANES) * blocks * panel)?;
        Ok(QuantPanels { buffer, format, out_features, blocks, columns })
    }

    /// Packs what `read` appends: the blocks of some rows, in order.
    fn fill(&mut self, ctx: &Context, read: &ReadRows<'_>) -> Result<()> {
        let (rows, blocks) = (self.out_features, self.blocks);
        if blocks == 0 {
            return Ok(());
        }
        let (row, panel) = with_layout!(self.format, L => (blocks * L::BYTES, blocks * L::PANEL));
        let place = with_layout!(self.format, L => place_row::<L> as fn(&[u8], usize, &mut [u8]));
        let shared = Shared::new(self.buffer.as_mut_slice::<u8>());
        packing::each_run(ctx, rows, read, &|run, bytes| {
            let index = run.start / LANES;
            // SAFETY: each panel is one part and is visited once.
            let to = unsafe { shared.part(index * panel..(index + 1) * panel) };
            bytes.chunks_exact(row).enumerate().for_each(|(lane, row)| place(row, lane, to));
        })
    }

    /// Panels in the matrix.
    pub(super) fn count(&self) -> usize {
        self.out_features.div_ceil(LANES)
    }

    /// All panels, and the bytes of one.
    pub(super) fn bytes_of_panels(&self) -> (&[u8], usize) {
        let bytes = self.buffer.as_slice::<u8>();
        (bytes, bytes.len() / self.count().max(1))
    }

    pub(crate) fn format(&self) -> BlockFormat {
        self.format
    }

    pub(super) fn out_features(&self) -> usize {
        self.out_features
    }

    pub(crate) fn in_features(&self) -> usize {
        self.columns.len()
    }

    /// Columns that the first block has before the matrix begins.
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

    /// Row `row` as f32, into `to` (`in_features` long).
    pub(crate) fn read_row(&self, row: usize, to: &mut [f32]) {
        with_layout!(self.format, L => self.read_row_as::<L>(row, to));
    }

    fn read_row_as<L: Layout>(&self, row: usize, to: &mut [f32]) {
        let (bytes, length) = self.bytes_of_panels();
        let panel = &bytes[row / LANES * length..][..length];
        for (index, block) in panel.chunks_exact(L::PANEL).enumerate() {
            for group in 0..L::COLUMNS / GROUP {
                let first = index * L::COLUMNS + group * GROUP;
                let values = group_of::<L>(block, group, row % LANES);
                for (column, value) in (first..).zip(values) {
                    if self.columns.contains(&column) {
                        to[column - self.columns.start] = value;
                    }
                }
            }
        }
    }

    /// The matrix as an f32 tensor `[out_features, in_features]`.
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

fn place_row<L: Layout>(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (block, to) in row.chunks_exact(L::BYTES).zip(panel.chunks_exact_mut(L::PANEL)) {
        L::place(block, lane, to);
    }
}

/// 32 numbers of one row.
fn group_of<L: Layout>(block: &[u8], group: usize, lane: usize) -> [f32; GROUP] {
    let mut values = [0.0; GROUP];
    let minimum = if L::MINIMUMS { L::minimums(PLAIN, block, group)[lane] } else { 0.0 };
    for half in 0..2 {
        let scale = L::scales(PLAIN, block, group, half)[lane];
        for quad in 0..QUADS {
            let quants = match half {
                0 => L::quants::<_, 0>(PLAIN, block, group, quad),
                _ => L::quants::<_, 1>(PLAIN, block, group, quad),
            };
            for i in 0..4 {
                let byte = quants[4 * lane + i];
                let quant = if L::SIGNED { i32::from(byte.cast_signed()) } else { i32::from(byte) - L::OFFSET };
                values[half * GROUP / 2 + 4 * quad + i] = scale * quant as f32 - minimum;
            }
        }
    }
    values
}
