//! The paged cache of one layer's keys and values.

use crate::context::Context;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// Keys and values of one layer in blocks of `block_size` positions.
#[derive(Debug)]
pub struct KvCache {
    num_blocks: usize,
    block_size: usize,
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    keys: Tensor,
    values: Tensor,
}

impl KvCache {
    /// A cache of zeros in `dtype` (f32, bf16 or f16) on `device`.
    pub fn new(
        _ctx: &Context,
        num_blocks: usize,
        block_size: usize,
        kv_heads: usize,
        head_dim: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<KvCache> {
        if !matches!(dtype, DType::F32 | DType::BF16 | DType::F16) {
            let what = "KV cache";
            return Err(Error::Dtype { what, expected: "f32, bf16 or f16", got: dtype });
        }
        let shape = (num_blocks * block_size, kv_heads, head_dim);
        let keys = Tensor::zeros(shape, dtype, device)?;
        let values = Tensor::zeros(shape, dtype, device)?;
        Ok(KvCache { num_blocks, block_size, kv_heads, head_dim, dtype, keys, values })
    }

    /// Bytes of keys and values that one block of one layer takes.
    pub fn bytes_per_block(block_size: usize, kv_heads: usize, head_dim: usize, dtype: DType) -> usize {
        2 * block_size * kv_heads * head_dim * dtype.size_in_bytes()
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

    /// Keys and values, each `[num_blocks * block_size, kv_heads, head_dim]`.
    pub(crate) fn tensors(&self) -> (&Tensor, &Tensor) {
        (&self.keys, &self.values)
    }
}
