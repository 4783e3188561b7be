//! Memory layout of the CPU cache, and writing of new rows into it.
//!
//! Keys of a (block, KV head) are panels of sixteen positions, as weights are panels of sixteen rows: a score is then
//! a lane of a product, without a sum across lanes. Values of a (block, KV head) are rows of `head_dim`, padded to
//! whole vectors. Padding is zero and stays zero.

use candle_core::DType;

use super::AttentionSeq;
use crate::buffer::Buffer;
use crate::context::Context;
use crate::error::Result;
use crate::matrix::format::{Bf16, F16, F32, Format};
use crate::shared_slice::SharedSlice;
use crate::simd::LANES;

/// Elements of one step's keys below which the caller's thread writes all of them.
const SINGLE_THREAD_ELEMENTS: usize = 32 << 10;

/// Sizes that fix every offset.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageLayout {
    pub(super) block_size: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Panels of keys in a (block, KV head).
    pub(super) key_panels: usize,
    /// Width of a row of values.
    pub(super) width: usize,
}

impl PageLayout {
    fn new(block_size: usize, kv_heads: usize, head_dim: usize) -> PageLayout {
        let key_panels = block_size.div_ceil(LANES);
        PageLayout { block_size, kv_heads, head_dim, key_panels, width: head_dim.next_multiple_of(LANES) }
    }

    /// Returns the elements of one panel of keys.
    fn panel_elements<F: Format>(&self) -> usize {
        F::units(self.head_dim) * F::STEP * LANES
    }

    /// Returns the elements of a (block, KV head)'s keys.
    fn key_elements<F: Format>(&self) -> usize {
        self.key_panels * self.panel_elements::<F>()
    }

    /// Returns the elements of a (block, KV head)'s values.
    fn value_elements(&self) -> usize {
        self.block_size * self.width
    }

    fn bytes_per_block<F: Format>(&self) -> usize {
        self.kv_heads * (self.key_elements::<F>() + self.value_elements()) * size_of::<F::Element>()
    }
}

/// Keys and values of all blocks.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(super) layout: PageLayout,
    dtype: DType,
    keys: Buffer,
    values: Buffer,
}

/// New rows `[tokens, kv_heads, head_dim]` of keys and values.
pub(crate) struct NewRows<'a> {
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
}

impl Pages {
    pub(super) fn new(
        num_blocks: usize,
        block_size: usize,
        kv_heads: usize,
        head_dim: usize,
        dtype: DType,
    ) -> Result<Pages> {
        let layout = PageLayout::new(block_size, kv_heads, head_dim);
        let block_bytes = Pages::bytes_per_block(block_size, kv_heads, head_dim, dtype);
        let value_bytes = kv_heads * layout.value_elements() * dtype.size_in_bytes();
        let keys = Buffer::zeroed(num_blocks * (block_bytes - value_bytes))?;
        Ok(Pages { layout, dtype, keys, values: Buffer::zeroed(num_blocks * value_bytes)? })
    }

    pub(super) fn bytes_per_block(block_size: usize, kv_heads: usize, head_dim: usize, dtype: DType) -> usize {
        let layout = PageLayout::new(block_size, kv_heads, head_dim);
        match dtype {
            DType::BF16 => layout.bytes_per_block::<Bf16>(),
            DType::F16 => layout.bytes_per_block::<F16>(),
            _ => layout.bytes_per_block::<F32>(),
        }
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the key panels of a (block, KV head), as units.
    #[inline(always)]
    pub(super) fn key_units<F: Format>(&self, block: usize, head: usize) -> &[F::Unit] {
        let length = self.layout.key_panels * F::units(self.layout.head_dim);
        let start = (block * self.layout.kv_heads + head) * length;
        &self.keys.as_slice::<F::Unit>()[start..start + length]
    }

    /// Returns the value rows of a (block, KV head).
    #[inline(always)]
    pub(super) fn value_rows<F: Format>(&self, block: usize, head: usize) -> &[F::Element] {
        let length = self.layout.value_elements();
        let start = (block * self.layout.kv_heads + head) * length;
        &self.values.as_slice::<F::Element>()[start..start + length]
    }

    /// Writes the new rows of all sequences. The arguments are checked.
    pub(super) fn write(&mut self, ctx: &Context, seqs: &[AttentionSeq<'_>], new: &NewRows<'_>) {
        match self.dtype {
            DType::BF16 => self.write_as::<Bf16>(ctx, seqs, new),
            DType::F16 => self.write_as::<F16>(ctx, seqs, new),
            _ => self.write_as::<F32>(ctx, seqs, new),
        }
    }

    /// Writes the new rows in format F. KV heads are spread over the threads; one thread writes all rows of a head.
    fn write_as<F: Format>(&mut self, ctx: &Context, seqs: &[AttentionSeq<'_>], new: &NewRows<'_>) {
        let layout = self.layout;
        let keys = SharedSlice::new(self.keys.as_mut_slice::<F::Element>());
        let values = SharedSlice::new(self.values.as_mut_slice::<F::Element>());
        let grain = if new.k.len() < SINGLE_THREAD_ELEMENTS { layout.kv_heads } else { 1 };
        ctx.pool().for_each_chunk(layout.kv_heads, grain, &|heads| {
            for head in heads {
                for seq in seqs {
                    write_head::<F>(&layout, head, seq, new, &keys, &values);
                }
            }
        });
    }
}

/// Writes one head of one sequence's new rows.
fn write_head<F: Format>(
    layout: &PageLayout,
    head: usize,
    seq: &AttentionSeq<'_>,
    new: &NewRows<'_>,
    keys: &SharedSlice<'_, F::Element>,
    values: &SharedSlice<'_, F::Element>,
) {
    for row in 0..seq.rows {
        let position = seq.position + row;
        let block = seq.block_table[position / layout.block_size] as usize;
        let slot = position % layout.block_size;
        let block_head = block * layout.kv_heads + head;
        let start = ((seq.first_row + row) * layout.kv_heads + head) * layout.head_dim;
        let source = start..start + layout.head_dim;
        let start = block_head * layout.key_elements::<F>() + slot / LANES * layout.panel_elements::<F>();
        // SAFETY: the keys and values of a (block, head) belong to the head, and the head to one thread.
        let panel = unsafe { keys.slice_mut(start..start + layout.panel_elements::<F>()) };
        for (k, x) in new.k[source.clone()].iter().enumerate() {
            panel[F::index(k, slot % LANES)] = F::encode(*x);
        }
        let start = block_head * layout.value_elements() + slot * layout.width;
        // SAFETY: as above.
        let row = unsafe { values.slice_mut(start..start + layout.head_dim) };
        row.iter_mut().zip(&new.v[source]).for_each(|(to, x)| *to = F::encode(*x));
    }
}
