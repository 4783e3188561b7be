//! Grouped-query attention with rotary positions over a paged cache.

use candle_core::Tensor;
use lockstep_kernels::{AttentionParams, KvCache, paged_attention};

use super::{ColumnParallelLinear, Pass, RmsNorm, RotaryTables, RowParallelLinear};
use crate::EngineError;
use crate::config::{LayerConfig, ModelConfig};
use crate::loader::{Loader, RowPart};

/// Attention of one layer. Each rank holds some of the query heads, and the KV heads that they read.
pub struct Attention {
    qkv_proj: ColumnParallelLinear,
    o_proj: RowParallelLinear,
    /// Norms of queries and keys.
    norms: Option<[RmsNorm; 2]>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Index of the RoPE, among the model's, that rotates queries and keys.
    rope: usize,
    params: AttentionParams,
}

impl Attention {
    pub fn load(loader: &Loader<'_>, config: &ModelConfig, layer: &LayerConfig) -> Result<Self, EngineError> {
        let tensors = config.attention;
        let (shard, hidden, dim) = (loader.shard(), config.hidden_size, config.head_dim);
        let queries = config.num_heads * dim;
        let parts = qkv_parts(loader, config, tensors.fused_qkv);
        let norm = |name| RmsNorm::load(loader, name, dim, config);
        let norms = if tensors.qk_norm { Some([norm("q_norm")?, norm("k_norm")?]) } else { None };
        let q_columns = shard.queries.start * dim..shard.queries.end * dim;
        Ok(Self {
            qkv_proj: ColumnParallelLinear::load(loader, &parts, hidden, tensors.qkv_bias)?,
            o_proj: RowParallelLinear::load(loader, "o_proj", [hidden, queries], q_columns, tensors.o_bias)?,
            norms,
            heads: shard.queries.len(),
            kv_heads: shard.kv.len(),
            head_dim: dim,
            rope: layer.rope,
            params: AttentionParams {
                kv_head_of: shard.kv_of.clone(),
                scale: config.attention_scale,
                window: layer.window,
                soft_cap: config.attention_soft_cap,
            },
        })
    }

    /// Computes attention, `[tokens, hidden]` to `[tokens, hidden]`. Keys and values of the batch go into `cache`.
    pub fn forward(
        &self,
        pass: &mut Pass<'_>,
        x: &Tensor,
        rotary_tables: &RotaryTables,
        cache: &mut KvCache,
    ) -> Result<Tensor, EngineError> {
        let qkv = self.qkv_proj.forward(pass, x)?;
        let tokens = qkv.dim(0)?;
        let heads = |first: usize, count: usize| {
            let part = qkv.narrow(1, first * self.head_dim, count * self.head_dim)?;
            part.contiguous()?.reshape((tokens, count, self.head_dim))
        };
        let mut q = heads(0, self.heads)?;
        let mut k = heads(self.heads, self.kv_heads)?;
        let v = heads(self.heads + self.kv_heads, self.kv_heads)?;
        if let Some([q_norm, k_norm]) = &self.norms {
            q = q_norm.forward_heads(pass, &q)?;
            k = k_norm.forward_heads(pass, &k)?;
        }
        let q = rotary_tables.rotate(pass, &q, self.rope)?;
        let k = rotary_tables.rotate(pass, &k, self.rope)?;
        let out = paged_attention(pass.context, &q, &k, &v, cache, &pass.batch.seqs, &self.params)?;
        pass.tick();
        self.o_proj.forward(pass, &out.reshape((tokens, self.heads * self.head_dim))?)
    }
}

/// Returns this rank's rows of queries, keys and values.
fn qkv_parts(loader: &Loader<'_>, config: &ModelConfig, fused: bool) -> [RowPart<'static>; 3] {
    let (shard, dim) = (loader.shard(), config.head_dim);
    let (queries, kv) = (config.num_heads * dim, config.num_kv_heads * dim);
    let q_rows = shard.queries.start * dim..shard.queries.end * dim;
    let kv_rows = shard.kv.start * dim..shard.kv.end * dim;
    if !fused {
        return [
            RowPart { name: "q_proj", num_rows: queries, rows: q_rows },
            RowPart { name: "k_proj", num_rows: kv, rows: kv_rows.clone() },
            RowPart { name: "v_proj", num_rows: kv, rows: kv_rows },
        ];
    }
    let part = |first_row: usize, rows: std::ops::Range<usize>| RowPart {
        name: "qkv_proj",
        num_rows: queries + 2 * kv,
        rows: first_row + rows.start..first_row + rows.end,
    };
    [part(0, q_rows), part(queries, kv_rows.clone()), part(queries + kv, kv_rows)]
}
