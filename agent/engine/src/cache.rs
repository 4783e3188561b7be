//! One rank's KV cache: the same number of blocks in every layer, and the rotary embeddings that layers share.

use candle_core::DType;
use lockstep_kernels::{Context, KvCache};

use crate::EngineError;
use crate::config::ModelConfig;
use crate::layers::RotaryEmbedding;
use crate::shard::Shard;

/// Shape of one rank's cache.
#[derive(Debug, Clone)]
pub struct CacheLayout {
    /// Positions in one block.
    pub block_size: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub dtype: DType,
}

impl CacheLayout {
    pub fn new(config: &ModelConfig, shard: &Shard, block_size: usize, dtype: DType) -> Self {
        Self { block_size, kv_heads: shard.kv.len(), head_dim: config.head_dim, dtype }
    }

    /// Returns the bytes of one block of one layer.
    pub fn bytes_per_layer(&self) -> u64 {
        KvCache::bytes_per_block(self.block_size, self.kv_heads, self.head_dim, self.dtype) as u64
    }
}

/// Keys and values of the stage's layers.
pub struct Cache {
    layout: CacheLayout,
    ropes: Vec<RotaryEmbedding>,
    /// Context that computes each layer.
    contexts: Vec<Context>,
    layers: Vec<KvCache>,
}

impl Cache {
    /// Creates a cache without blocks, with one context for each layer.
    pub fn new(layout: CacheLayout, ropes: Vec<RotaryEmbedding>, contexts: Vec<Context>) -> Self {
        Self { layout, ropes, contexts, layers: Vec::new() }
    }

    pub fn layout(&self) -> &CacheLayout {
        &self.layout
    }

    /// Returns the number of blocks.
    pub fn num_blocks(&self) -> usize {
        self.layers.first().map_or(0, KvCache::num_blocks)
    }

    /// Allocates `num_blocks` blocks. If their number changes, the contents are lost, and the old memory is freed
    /// first.
    ///
    /// # Errors
    /// The error of a device that has not enough memory.
    pub fn resize(&mut self, num_blocks: usize) -> Result<(), EngineError> {
        if self.num_blocks() == num_blocks {
            return Ok(());
        }
        self.layers.clear();
        let CacheLayout { block_size, kv_heads, head_dim, dtype, .. } = self.layout;
        let create = |context| KvCache::new(context, num_blocks, block_size, kv_heads, head_dim, dtype);
        self.layers = self.contexts.iter().map(create).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Returns the model's rotary embeddings, and the layers in order.
    pub fn split_mut(&mut self) -> (&[RotaryEmbedding], &mut [KvCache]) {
        (&self.ropes, &mut self.layers)
    }
}
