//! Paged attention as plain candle operations: gather a sequence's keys and values, then compute the textbook formula.

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use crate::attention::{AttentionParams, AttentionSeq, KvCache};
use crate::context::Context;
use crate::error::Result;

/// Computes [`crate::paged_attention`].
pub fn paged_attention(
    _ctx: &Context,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cache: &mut KvCache,
    seqs: &[AttentionSeq<'_>],
    params: &AttentionParams,
) -> Result<Tensor> {
    for seq in seqs {
        write_rows(k, v, cache, seq)?;
    }
    let (tokens, heads, head_dim) = q.dims3()?;
    let mut outputs = Vec::with_capacity(2 * seqs.len() + 1);
    let mut next_row = 0;
    let zeros = |rows| Tensor::zeros((rows, heads, head_dim), DType::F32, q.device());
    for seq in seqs.iter().filter(|seq| seq.rows > 0) {
        if seq.first_row > next_row {
            outputs.push(zeros(seq.first_row - next_row)?);
        }
        outputs.push(attend(q, cache, seq, params)?);
        next_row = seq.first_row + seq.rows;
    }
    if next_row < tokens || tokens == 0 {
        outputs.push(zeros(tokens - next_row)?);
    }
    Ok(Tensor::cat(&outputs, 0)?)
}

/// Copies a sequence's new rows into its slots, block by block.
fn write_rows(k: &Tensor, v: &Tensor, cache: &KvCache, seq: &AttentionSeq<'_>) -> Result<()> {
    let (keys, values) = cache.tensors()?;
    let block_size = cache.block_size();
    let mut row = 0;
    while row < seq.rows {
        let position = seq.position + row;
        let offset = position % block_size;
        let count = (block_size - offset).min(seq.rows - row);
        let slot = seq.block_table[position / block_size] as usize * block_size + offset;
        for (new, stored) in [(k, keys), (v, values)] {
            let rows = new.narrow(0, seq.first_row + row, count)?.to_dtype(cache.dtype())?;
            stored.slice_set(&rows.contiguous()?, 0, slot)?;
        }
        row += count;
    }
    Ok(())
}

/// Most scores that are held at once: 64 MiB of them. So a long prefill needs no memory that grows with its square.
const MAX_SCORES: usize = 16 << 20;

/// Computes attention of one sequence's rows: `[rows, heads, head_dim]`.
fn attend(q: &Tensor, cache: &KvCache, seq: &AttentionSeq<'_>, params: &AttentionParams) -> Result<Tensor> {
    let device = q.device();
    let context = seq.position + seq.rows;
    let block_size = cache.block_size();
    let slot = |p: usize| seq.block_table[p / block_size] * block_size as u32 + (p % block_size) as u32;
    let slots = Tensor::new((0..context).map(slot).collect::<Vec<u32>>(), device)?;
    let heads: Vec<u32> = params.kv_head_of.iter().map(|head| *head as u32).collect();
    let heads = Tensor::new(heads, device)?;
    let gather = |stored: &Tensor| -> Result<Tensor> {
        let rows = stored.index_select(&slots, 0)?.to_dtype(DType::F32)?;
        Ok(rows.index_select(&heads, 1)?.transpose(0, 1)?.contiguous()?)
    };
    let (keys, values) = cache.tensors()?;
    let (keys, values) = (gather(keys)?.t()?, gather(values)?);
    let rows_per_chunk = (MAX_SCORES / (params.kv_head_of.len() * context).max(1)).max(1);
    let mut outputs = Vec::new();
    for first in (0..seq.rows).step_by(rows_per_chunk) {
        let rows = first..seq.rows.min(first + rows_per_chunk);
        let q = q.narrow(0, seq.first_row + first, rows.len())?.transpose(0, 1)?.contiguous()?;
        let mut scores = (q.matmul(&keys)? * f64::from(params.scale))?;
        if let Some(cap) = params.soft_cap {
            let cap = f64::from(cap);
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
        let positions = seq.position + rows.start..seq.position + rows.end;
        let scores = scores.broadcast_add(&mask(positions, context, params.window, device)?)?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        outputs.push(weights.matmul(&values)?.transpose(0, 1)?.contiguous()?);
    }
    Ok(Tensor::cat(&outputs, 0)?)
}

/// Returns a mask `[1, positions, context]`: 0 where the query at a position sees a key, minus infinity elsewhere.
fn mask(positions: Range<usize>, context: usize, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let rows = positions.len();
    let mut mask = Vec::with_capacity(rows * context);
    for position in positions {
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let is_visible = |key: usize| key >= first && key <= position;
        mask.extend((0..context).map(|key| if is_visible(key) { 0.0 } else { f32::NEG_INFINITY }));
    }
    Ok(Tensor::from_vec(mask, (1, rows, context), device)?)
}

/// Estimates the most bytes that attention takes beside its arguments and its result, for `rows` of one sequence of
/// `context` positions.
pub fn attention_bytes(heads: usize, head_dim: usize, rows: usize, context: usize) -> usize {
    let scores = (heads * rows * context).min(MAX_SCORES.max(heads * context));
    // The memory holds the scores, their weights and a step between, and the keys and values, once more for their
    // order.
    (3 * scores + 4 * heads * context * head_dim) * size_of::<f32>()
}
