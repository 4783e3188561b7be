//! Causal attention over a paged KV cache, for prefill and decode alike.

use candle_core::{Device, Tensor};

use crate::attention::{AttentionParams, AttentionSeq, KvCache, NewRows, attend};
use crate::context::Context;
use crate::error::{Result, argument};
use crate::{check, host, plain};

/// Writes `k` and `v` `[tokens, kv_heads, head_dim]` of the new rows into `cache`, then lets each row of `q` `[tokens,
/// heads, head_dim]` attend to positions up to its own. Returns a tensor of `q`'s shape.
///
/// On the CPU, the order of operations for one (row, head) depends on its position alone, so results are bit-identical
/// alone or batched, whole or chunked. Rows that belong to no sequence stay zero.
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
        check::same_device(what, tensor, &Device::Cpu)?;
    }
    let (queries, k, v) = (host::borrow("q", q)?, host::borrow("k", k)?, host::borrow("v", v)?);
    let new = NewRows { k: k.f32()?, v: v.f32()? };
    let out = attend(ctx, queries.f32()?, &new, pages, seqs, params);
    host::tensor(out, q.shape())
}

/// Checks everything that a kernel relies on when it computes addresses.
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
        return check::wrong_shape("q", format!("[tokens, heads, {}]", cache.head_dim()), q);
    }
    if params.kv_head_of.len() != heads {
        return argument("kv_head_of", format!("{} entries for {heads} query heads", params.kv_head_of.len()));
    }
    if let Some(head) = params.kv_head_of.iter().find(|head| **head >= cache.kv_heads()) {
        return argument("kv_head_of", format!("KV head {head} is beyond the cache's {} KV heads", cache.kv_heads()));
    }
    let mut next_row = 0;
    for seq in seqs {
        check_sequence(seq, cache, tokens, &mut next_row)?;
    }
    Ok(())
}

/// Checks that sequences are in the order of their rows and do not overlap, and that their blocks exist and suffice.
fn check_sequence(seq: &AttentionSeq<'_>, cache: &KvCache, tokens: usize, next_row: &mut usize) -> Result<()> {
    let end = seq.first_row.saturating_add(seq.rows);
    if seq.first_row < *next_row || end > tokens {
        let rows = seq.first_row..end;
        return argument(
            "sequence rows",
            format!("{rows:?} overlap those of another sequence or exceed the {tokens} tokens"),
        );
    }
    *next_row = end;
    let capacity = seq.block_table.len().saturating_mul(cache.block_size());
    let needed = seq.position.saturating_add(seq.rows);
    if needed > capacity {
        return argument("block table", format!("it holds {capacity} positions, but {needed} are needed"));
    }
    if let Some(block) = seq.block_table.iter().find(|b| **b as usize >= cache.num_blocks()) {
        return argument("block table", format!("block {block} is beyond the cache's {} blocks", cache.num_blocks()));
    }
    Ok(())
}
