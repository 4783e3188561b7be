//! Grouped-query attention with rotary positions over a paged cache.

use candle_core::Tensor;
use lockstep_kernels::{AttentionParams, KvCache, RotaryTable, paged_attention, rotary};

use super::{ColumnParallelLinear, Pass, RmsNorm, RowParallelLinear};
use crate::EngineError;
use crate::config::ModelConfig;
use crate::weights::{Loader, RowPart};

/// How families differ.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttentionOptions {
    /// Biases on queries, keys and values.
    pub qkv_bias: bool,
    /// A bias on the output.
    pub o_bias: bool,
    /// Each head of queries and keys is normed before it turns.
    pub qk_norm: bool,
}

/// Each rank holds some of the query heads, and the KV heads that they read.
pub struct Attention {
    qkv_proj: ColumnParallelLinear,
    o_proj: RowParallelLinear,
    /// Of queries and keys.
    norms: Option<[RmsNorm; 2]>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    params: AttentionParams,
}

impl Attention {
    pub fn load(loader: &Loader<'_>, config: &ModelConfig, options: AttentionOptions) -> Result<Self, EngineError> {
        let (shard, hidden, dim) = (loader.shard(), config.hidden_size, config.head_dim);
        let (queries, kv) = (config.num_heads * dim, config.num_kv_heads * dim);
        let q_rows = shard.queries.start * dim..shard.queries.end * dim;
        let kv_rows = shard.kv.start * dim..shard.kv.end * dim;
        let parts = [
            RowPart { name: "q_proj", of: queries, rows: q_rows.clone() },
            RowPart { name: "k_proj", of: kv, rows: kv_rows.clone() },
            RowPart { name: "v_proj", of: kv, rows: kv_rows },
        ];
        let norm = |name| RmsNorm::load(loader, name, dim, config.rms_norm_eps);
        let norms = if options.qk_norm { Some([norm("q_norm")?, norm("k_norm")?]) } else { None };
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "head sizes are small")]
        let scale = (1.0 / (dim as f64).sqrt()) as f32;
        Ok(Self {
            qkv_proj: ColumnParallelLinear::load(loader, &parts, hidden, options.qkv_bias)?,
            o_proj: RowParallelLinear::load(loader, "o_proj", [hidden, queries], q_rows, options.o_bias)?,
            norms,
            heads: shard.queries.len(),
            kv_heads: shard.kv.len(),
            head_dim: dim,
            params: AttentionParams { kv_head_of: shard.kv_of.clone(), scale, window: None, soft_cap: None },
        })
    }

    /// `[tokens, hidden]` to `[tokens, hidden]`; keys and values of the batch go into `cache`.
    pub fn forward(
        &self,
        pass: &mut Pass<'_>,
        x: &Tensor,
        table: &RotaryTable,
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
            q = q_norm.of_heads(pass, &q)?;
            k = k_norm.of_heads(pass, &k)?;
        }
        let q = rotary(pass.kernels, &q, table, &pass.batch.positions)?;
        let k = rotary(pass.kernels, &k, table, &pass.batch.positions)?;
        let out = paged_attention(pass.kernels, &q, &k, &v, cache, &pass.batch.seqs, &self.params)?;
        pass.tick();
        self.o_proj.forward(pass, &out.reshape((tokens, self.heads * self.head_dim))?)
    }
}
