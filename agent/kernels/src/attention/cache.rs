//! The paged cache of one layer's keys and values.

use candle_core::{DType, Tensor};

use super::pages::Pages;
use crate::context::Context;
use crate::error::{Error, Result};

/// Keys and values of one layer in blocks of `block_size` positions.
#[derive(Debug)]
pub struct KvCache {
    num_blocks: usize,
    block_size: usize,
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    storage: CacheStorage,
}

/// Storage of the keys and values.
#[derive(Debug)]
enum CacheStorage {
    /// Pages in the host's memory, laid out for the kernels.
    Pages(Pages),
    /// Key and value tensors `[num_blocks * block_size, kv_heads, head_dim]`, for devices without kernels.
    Tensors(Tensor, Tensor),
}

impl KvCache {
    /// Creates a cache in `dtype` (f32, bf16 or f16) on the context's device. The system gives the memory of a cache
    /// for kernels only as blocks are first written.
    pub fn new(
        ctx: &Context,
        num_blocks: usize,
        block_size: usize,
        kv_heads: usize,
        head_dim: usize,
        dtype: DType,
    ) -> Result<KvCache> {
        check_parameters(block_size, dtype)?;
        let storage = if ctx.has_kernels() {
            CacheStorage::Pages(Pages::new(num_blocks, block_size, kv_heads, head_dim, dtype)?)
        } else {
            let shape = (num_blocks * block_size, kv_heads, head_dim);
            let zeros = || Tensor::zeros(shape, dtype, ctx.device());
            CacheStorage::Tensors(zeros()?, zeros()?)
        };
        Ok(KvCache { num_blocks, block_size, kv_heads, head_dim, dtype, storage })
    }

    /// Returns the bytes of keys and values that one block of one layer takes, with the padding on the CPU. There is no
    /// padding if `block_size` and `head_dim` are multiples of 16.
    pub fn bytes_per_block(block_size: usize, kv_heads: usize, head_dim: usize, dtype: DType) -> usize {
        Pages::bytes_per_block(block_size, kv_heads, head_dim, dtype)
    }

    /// Returns the number of blocks in the cache.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Returns the positions per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Returns the number of KV heads of this rank.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Returns the width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Returns the format of the keys and values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the keys and values as tensors. Fails if they are laid out for the CPU kernels.
    pub(crate) fn tensors(&self) -> Result<(&Tensor, &Tensor)> {
        match &self.storage {
            CacheStorage::Tensors(keys, values) => Ok((keys, values)),
            CacheStorage::Pages(_) => Err(Error::Placement { what: "KV cache of plain attention", expected: "same" }),
        }
    }

    /// Returns the pages if the cache is laid out for the CPU kernels.
    pub(crate) fn pages_mut(&mut self) -> Option<&mut Pages> {
        match &mut self.storage {
            CacheStorage::Pages(pages) => Some(pages),
            CacheStorage::Tensors(..) => None,
        }
    }
}

fn check_parameters(block_size: usize, dtype: DType) -> Result<()> {
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
