//! Causal attention over a paged KV cache, for prefill and decode alike.

mod cache;
mod cpu;
mod pages;
mod split;

use crate::context::Context;
use crate::error::{Result, argument};
use crate::{check, host, plain};
pub use cache::KvCache;
use candle_core::Tensor;

/// The rows of one sequence in a step, and where its keys and values live.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSeq<'a> {
    /// Its first row in `q`, `k` and `v`.
    pub first_row: usize,
    /// How many rows it has in this step.
    pub rows: usize,
    /// Position of its first row; earlier positions are in the cache already.
    pub position: usize,
    /// Block `i` holds positions `i * block_size..(i + 1) * block_size`.
    pub block_table: &'a [u32],
}

/// What is constant over a layer's calls.
#[derive(Debug, Clone)]
pub struct AttentionParams {
    /// For each query head, the KV head that it reads.
    pub kv_head_of: Vec<usize>,
    /// Factor on `q · k`, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A query sees at most this many positions, its own included.
    pub window: Option<usize>,
    /// Scores become `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

/// Writes `k` and `v` `[tokens, kv_heads, head_dim]` of the new rows into `cache`, then lets each row
/// of `q` `[tokens, heads, head_dim]` attend to positions up to its own; returns `q`'s shape.
///
/// On CPU the order of operations for one (row, head) depends on its position alone, so results are
/// bit-identical alone or batched, whole or chunked. Rows that belong to no sequence stay zero.
pub fn paged_attention(
    ctx: &Context,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cache: &mut KvCache,
    seqs: &[AttentionSeq<'_>],
    params: &AttentionParams,
) -> Result<Tensor> {
    check_arguments(q, k, v, cache, seqs, params)?;
    let Some(pages) = cache.pages_mut() else {
        return plain::paged_attention(ctx, q, k, v, cache, seqs, params);
    };
    for (what, tensor) in [("q", q), ("k", k), ("v", v)] {
        check::same_device(what, tensor, &candle_core::Device::Cpu)?;
    }
    let (queries, k, v) = (host::borrow("q", q)?, host::borrow("k", k)?, host::borrow("v", v)?);
    let new = pages::NewRows { k: k.f32()?, v: v.f32()? };
    let out = cpu::attend(ctx, queries.f32()?, &new, pages, seqs, params);
    host::tensor(out, q.shape())
}

/// Everything that a kernel relies on when it computes addresses.
fn check_arguments(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cache: &KvCache,
    seqs: &[AttentionSeq<'_>],
    params: &AttentionParams,
) -> Result<()> {
    let (tokens, heads, head_dim) = check::heads("q", q)?;
    check::heads("k", k)?;
    check::heads("v", v)?;
    check::same_shape("k", k, &[tokens, cache.kv_heads(), cache.head_dim()])?;
    check::same_shape("v", v, k.dims())?;
    if head_dim != cache.head_dim() {
        return check::shape("q", format!("[tokens, heads, {}]", cache.head_dim()), q);
    }
    if params.kv_head_of.len() != heads {
        return argument("kv_head_of", format!("{} for {heads} heads", params.kv_head_of.len()));
    }
    if let Some(head) = params.kv_head_of.iter().find(|head| **head >= cache.kv_heads()) {
        return argument("kv_head_of", format!("{head} of {} kv heads", cache.kv_heads()));
    }
    let mut next_row = 0;
    for seq in seqs {
        check_sequence(seq, cache, tokens, &mut next_row)?;
    }
    Ok(())
}

/// Sequences come in the order of their rows and do not overlap; their blocks exist and suffice.
fn check_sequence(seq: &AttentionSeq<'_>, cache: &KvCache, tokens: usize, next_row: &mut usize) -> Result<()> {
    let end = seq.first_row.saturating_add(seq.rows);
    if seq.first_row < *next_row || end > tokens {
        let rows = seq.first_row..end;
        return argument("sequence rows", format!("{rows:?} overlap others or pass {tokens} tokens"));
    }
    *next_row = end;
    let capacity = seq.block_table.len().saturating_mul(cache.block_size());
    let needed = seq.position.saturating_add(seq.rows);
    if needed > capacity {
        return argument("block table", format!("holds {capacity} positions; {needed} needed"));
    }
    if let Some(block) = seq.block_table.iter().find(|b| **b as usize >= cache.num_blocks()) {
        return argument("block table", format!("block {block} of {}", cache.num_blocks()));
    }
    Ok(())
}
