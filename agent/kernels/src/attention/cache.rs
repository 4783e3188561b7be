//! The paged cache of one layer's keys and values.

use super::pages::Pages;
use crate::context::Context;
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};

/// Keys and values of one layer in blocks of `block_size` positions.
#[derive(Debug)]
pub struct KvCache {
    num_blocks: usize,
    block_size: usize,
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    entries: Entries,
}

/// Where the entries are.
#[derive(Debug)]
enum Entries {
    /// In the host's memory, laid out for the kernels.
    Pages(Pages),
    /// As tensors `[num_blocks * block_size, kv_heads, head_dim]`, for devices without kernels.
    Tensors(Tensor, Tensor),
}

impl KvCache {
    /// A cache in `dtype` (f32, bf16 or f16) on the context's device. For kernels its memory is taken from the system
    /// only as blocks are first written.
    pub fn new(
        ctx: &Context,
        num_blocks: usize,
        block_size: usize,
        kv_heads: usize,
        head_dim: usize,
        dtype: DType,
    ) -> Result<KvCache> {
        check(block_size, dtype)?;
        let entries = if ctx.has_kernels() {
            Entries::Pages(Pages::new(num_blocks, block_size, kv_heads, head_dim, dtype)?)
        } else {
            let shape = (num_blocks * block_size, kv_heads, head_dim);
            let zeros = || Tensor::zeros(shape, dtype, ctx.device());
            Entries::Tensors(zeros()?, zeros()?)
        };
        Ok(KvCache { num_blocks, block_size, kv_heads, head_dim, dtype, entries })
    }

    /// Bytes of keys and values that one block of one layer takes, with the padding that the CPU has;
    /// there is none where `block_size` and `head_dim` are multiples of 16.
    pub fn bytes_per_block(block_size: usize, kv_heads: usize, head_dim: usize, dtype: DType) -> usize {
        Pages::bytes_per_block(block_size, kv_heads, head_dim, dtype)
    }

    /// Blocks in the cache.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Positions per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// KV heads of this rank.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Format of the entries.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Keys and values as tensors; an error where they are laid out for the CPU kernels.
    pub(crate) fn tensors(&self) -> Result<(&Tensor, &Tensor)> {
        match &self.entries {
            Entries::Tensors(keys, values) => Ok((keys, values)),
            Entries::Pages(_) => Err(Error::Placement { what: "KV cache of plain attention", expected: "same" }),
        }
    }

    /// The pages, where the cache is laid out for the CPU kernels.
    pub(crate) fn pages_mut(&mut self) -> Option<&mut Pages> {
        match &mut self.entries {
            Entries::Pages(pages) => Some(pages),
            Entries::Tensors(..) => None,
        }
    }
}

fn check(block_size: usize, dtype: DType) -> Result<()> {
    if !matches!(dtype, DType::F32 | DType::BF16 | DType::F16) {
        let what = "KV cache";
        return Err(Error::Dtype { what, expected: "f32, bf16 or f16", got: dtype });
    }
    if block_size == 0 {
        let reason = "block_size is 0; it must be positive".to_owned();
        return Err(Error::Argument { what: "KV cache", reason });
    }
    Ok(())
}
