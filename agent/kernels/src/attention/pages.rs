//! How the CPU cache lies in memory, and writing new rows into it.
//!
//! Keys of a (block, KV head) are panels of sixteen positions, as weights are panels of sixteen rows:
//! a score is then a lane of a product, without a sum across lanes. Values of a (block, KV head) are
//! rows of `head_dim`, padded to whole vectors. Padding is zero and stays so.

use super::AttentionSeq;
use crate::buffer::Buffer;
use crate::context::Context;
use crate::error::Result;
use crate::matrix::format::{Bf16, F16, F32, Format};
use crate::shared::Shared;
use crate::simd::LANES;
use candle_core::DType;

/// Elements of one step's keys below which the caller's thread writes them alone.
const ALONE: usize = 32 << 10;

/// Sizes that fix every offset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) block_size: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Panels of keys in a (block, KV head).
    pub(super) groups: usize,
    /// Width of a row of values.
    pub(super) width: usize,
}

impl Layout {
    fn new(block_size: usize, kv_heads: usize, head_dim: usize) -> Layout {
        let groups = block_size.div_ceil(LANES);
        Layout { block_size, kv_heads, head_dim, groups, width: head_dim.next_multiple_of(LANES) }
    }

    /// Elements of one panel of keys.
    pub(super) fn panel<F: Format>(&self) -> usize {
        F::units(self.head_dim) * F::STEP * LANES
    }

    /// Elements of a (block, KV head)'s keys.
    fn keys<F: Format>(&self) -> usize {
        self.groups * self.panel::<F>()
    }

    /// Elements of a (block, KV head)'s values.
    pub(super) fn values(&self) -> usize {
        self.block_size * self.width
    }

    fn bytes_per_block<F: Format>(&self) -> usize {
        self.kv_heads * (self.keys::<F>() + self.values()) * size_of::<F::Element>()
    }
}

/// All blocks' keys and values.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(super) layout: Layout,
    dtype: DType,
    keys: Buffer,
    values: Buffer,
}

/// New rows `[tokens, kv_heads, head_dim]` of keys and values.
pub(super) struct NewRows<'a> {
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
}

impl Pages {
    pub(super) fn new(
        num_blocks: usize,
        block_size: usize,
        kv_heads: usize,
        head_dim: usize,
        dtype: DType,
    ) -> Result<Pages> {
        let layout = Layout::new(block_size, kv_heads, head_dim);
        let per_block = Pages::bytes_per_block(block_size, kv_heads, head_dim, dtype);
        let values = kv_heads * layout.values() * dtype.size_in_bytes();
        let keys = Buffer::zeroed(num_blocks * (per_block - values))?;
        Ok(Pages { layout, dtype, keys, values: Buffer::zeroed(num_blocks * values)? })
    }

    pub(super) fn bytes_per_block(block_size: usize, kv_heads: usize, head_dim: usize, dtype: DType) -> usize {
        let layout = Layout::new(block_size, kv_heads, head_dim);
        match dtype {
            DType::BF16 => layout.bytes_per_block::<Bf16>(),
            DType::F16 => layout.bytes_per_block::<F16>(),
            _ => layout.bytes_per_block::<F32>(),
        }
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The key panels of a (block, KV head), as units.
    #[inline(always)]
    pub(super) fn key_units<F: Format>(&self, block: usize, head: usize) -> &[F::Unit] {
        let length = self.layout.groups * F::units(self.layout.head_dim);
        let start = (block * self.layout.kv_heads + head) * length;
        &self.keys.as_slice::<F::Unit>()[start..start + length]
    }

    /// The value rows of a (block, KV head).
    #[inline(always)]
    pub(super) fn value_rows<F: Format>(&self, block: usize, head: usize) -> &[F::Element] {
        let length = self.layout.values();
        let start = (block * self.layout.kv_heads + head) * length;
        &self.values.as_slice::<F::Element>()[start..start + length]
    }

    /// Writes the new rows of all sequences; arguments are checked.
    pub(super) fn write(&mut self, ctx: &Context, seqs: &[AttentionSeq<'_>], new: &NewRows<'_>) {
        match self.dtype {
            DType::BF16 => self.write_as::<Bf16>(ctx, seqs, new),
            DType::F16 => self.write_as::<F16>(ctx, seqs, new),
            _ => self.write_as::<F32>(ctx, seqs, new),
        }
    }

    /// KV heads are spread over the threads; one thread writes all of a head's rows.
    fn write_as<F: Format>(&mut self, ctx: &Context, seqs: &[AttentionSeq<'_>], new: &NewRows<'_>) {
        let layout = self.layout;
        let keys = Shared::new(self.keys.as_mut_slice::<F::Element>());
        let values = Shared::new(self.values.as_mut_slice::<F::Element>());
        let grain = if new.k.len() < ALONE { layout.kv_heads } else { 1 };
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
    layout: &Layout,
    head: usize,
    seq: &AttentionSeq<'_>,
    new: &NewRows<'_>,
    keys: &Shared<'_, F::Element>,
    values: &Shared<'_, F::Element>,
) {
    for row in 0..seq.rows {
        let position = seq.position + row;
        let block = seq.block_table[position / layout.block_size] as usize;
        let slot = position % layout.block_size;
        let place = block * layout.kv_heads + head;
        let from = ((seq.first_row + row) * layout.kv_heads + head) * layout.head_dim;
        let from = from..from + layout.head_dim;
        let panel = place * layout.keys::<F>() + slot / LANES * layout.panel::<F>();
        // SAFETY: a (block, head)'s keys and values belong to the head, and the head to one thread.
        let panel = unsafe { keys.part(panel..panel + layout.panel::<F>()) };
        for (k, x) in new.k[from.clone()].iter().enumerate() {
            panel[F::index(k, slot % LANES)] = F::encode(*x);
        }
        let start = place * layout.values() + slot * layout.width;
        // SAFETY: as above.
        let row = unsafe { values.part(start..start + layout.head_dim) };
        row.iter_mut().zip(&new.v[from]).for_each(|(to, x)| *to = F::encode(*x));
    }
}
