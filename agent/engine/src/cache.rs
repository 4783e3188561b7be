//! One rank's KV cache: the same number of blocks in every layer, and the rotary embeddings that layers share.

use candle_core::DType;
use lockstep_kernels::{Context, KvCache};

use crate::EngineError;
use crate::config::ModelConfig;
use crate::layers::Rotary;
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

    /// Bytes of one block of one layer.
    pub fn bytes_per_layer(&self) -> u64 {
        KvCache::bytes_per_block(self.block_size, self.kv_heads, self.head_dim, self.dtype) as u64
    }
}

/// Keys and values of the stage's layers.
pub struct Cache {
    layout: CacheLayout,
    ropes: Vec<Rotary>,
    /// What computes each layer.
    contexts: Vec<Context>,
    layers: Vec<KvCache>,
}

impl Cache {
    /// A cache without blocks; one context a layer.
    pub fn new(layout: CacheLayout, ropes: Vec<Rotary>, contexts: Vec<Context>) -> Self {
        Self { layout, ropes, contexts, layers: Vec::new() }
    }

    pub fn layout(&self) -> &CacheLayout {
        &self.layout
    }

    /// Blocks that it has room for.
    pub fn num_blocks(&self) -> usize {
        self.layers.first().map_or(0, KvCache::num_blocks)
    }

    /// Makes room for `num_blocks`; what was in it is lost where the number changes. The old memory goes first.
    ///
    /// # Errors
    /// The device's, where it has no room.
    pub fn resize(&mut self, num_blocks: usize) -> Result<(), EngineError> {
        if self.num_blocks() == num_blocks {
            return Ok(());
        }
        self.layers.clear();
        let CacheLayout { block_size, kv_heads, head_dim, dtype, .. } = self.layout;
        let layer = |context| KvCache::new(context, num_blocks, block_size, kv_heads, head_dim, dtype);
        self.layers = self.contexts.iter().map(layer).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// The model's rotary embeddings, and the layers in order.
    pub fn parts(&mut self) -> (&[Rotary], &mut [KvCache]) {
        (&self.ropes, &mut self.layers)
    }
}
