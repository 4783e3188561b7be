//! Paged attention as plain candle operations: gather a sequence's keys and values, then the textbook.

use crate::attention::{AttentionParams, AttentionSeq, KvCache};
use crate::context::Context;
use crate::error::Result;
use candle_core::{D, DType, Device, Tensor};

/// Twin of [`crate::paged_attention`].
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
        write(k, v, cache, seq)?;
    }
    let (tokens, heads, head_dim) = q.dims3()?;
    let mut pieces = Vec::with_capacity(2 * seqs.len() + 1);
    let mut next_row = 0;
    let blank = |rows| Tensor::zeros((rows, heads, head_dim), DType::F32, q.device());
    for seq in seqs.iter().filter(|seq| seq.rows > 0) {
        if seq.first_row > next_row {
            pieces.push(blank(seq.first_row - next_row)?);
        }
        pieces.push(attend(q, cache, seq, params)?);
        next_row = seq.first_row + seq.rows;
    }
    if next_row < tokens || tokens == 0 {
        pieces.push(blank(tokens - next_row)?);
    }
    Ok(Tensor::cat(&pieces, 0)?)
}

/// Copies a sequence's new rows into its slots, block by block.
fn write(k: &Tensor, v: &Tensor, cache: &KvCache, seq: &AttentionSeq<'_>) -> Result<()> {
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

/// Attention of one sequence's rows: `[rows, heads, head_dim]`.
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
    let (keys, values) = (gather(keys)?, gather(values)?);
    let q = q.narrow(0, seq.first_row, seq.rows)?.transpose(0, 1)?.contiguous()?;
    let mut scores = (q.matmul(&keys.t()?)? * f64::from(params.scale))?;
    if let Some(cap) = params.soft_cap {
        let cap = f64::from(cap);
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    let scores = scores.broadcast_add(&mask(seq, params.window, device)?)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    Ok(weights.matmul(&values)?.transpose(0, 1)?.contiguous()?)
}

/// 0 where a row may look, minus infinity elsewhere: `[1, rows, context]`.
fn mask(seq: &AttentionSeq<'_>, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let context = seq.position + seq.rows;
    let mut mask = Vec::with_capacity(seq.rows * context);
    for position in seq.position..context {
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let seen = |key: usize| key >= first && key <= position;
        mask.extend((0..context).map(|key| if seen(key) { 0.0 } else { f32::NEG_INFINITY }));
    }
    Ok(Tensor::from_vec(mask, (1, seq.rows, context), device)?)
}
