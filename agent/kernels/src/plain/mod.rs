//! Every kernel as plain candle operations: devices without kernels run them, and the tests compare kernels with them.
//!
//! The signatures are those of the public functions, which check arguments first. Callers outside of this crate call
//! those instead.

mod attention;

use candle_core::{D, DType, Device, Tensor};

use crate::activation::Activation;
use crate::context::Context;
use crate::error::Result;
use crate::matrix::Matrix;
use crate::rotary_table::RotaryTable;
pub use attention::{attention_bytes, paged_attention};

/// Computes [`crate::linear`].
pub fn linear(_ctx: &Context, x: &Tensor, w: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = w.multiply_plain(x)?;
    Ok(match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    })
}

/// Computes [`crate::rms_norm`].
pub fn rms_norm(_ctx: &Context, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    let root = (mean + eps)?.sqrt()?;
    Ok(x.broadcast_div(&root)?.broadcast_mul(weight)?)
}

/// Computes [`crate::add_rms_norm`].
pub fn add_rms_norm(
    ctx: &Context,
    x: &Tensor,
    residual: &Tensor,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let sum = (x + residual)?;
    let normed = rms_norm(ctx, &sum, weight, eps)?;
    Ok((sum, normed))
}

/// Computes [`crate::rotary`].
pub fn rotary(_ctx: &Context, x: &Tensor, table: &RotaryTable, positions: &[u32]) -> Result<Tensor> {
    let (tokens, _, head_dim) = x.dims3()?;
    let half = table.rotary_dim() / 2;
    let positions = Tensor::new(positions, x.device())?;
    let cos = table.cos().index_select(&positions, 0)?.reshape((tokens, 1, half))?;
    let sin = table.sin().index_select(&positions, 0)?.reshape((tokens, 1, half))?;
    let low = x.narrow(D::Minus1, 0, half)?;
    let high = x.narrow(D::Minus1, half, half)?;
    let rotated_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
    let rotated_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
    if 2 * half == head_dim {
        return Ok(Tensor::cat(&[rotated_low, rotated_high], D::Minus1)?);
    }
    let rest = x.narrow(D::Minus1, 2 * half, head_dim - 2 * half)?;
    Ok(Tensor::cat(&[rotated_low, rotated_high, rest], D::Minus1)?)
}

/// Computes [`crate::gated_mul`].
pub fn gated_mul(_ctx: &Context, gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    let inter = gate_up.dims2()?.1 / 2;
    let gate = gate_up.narrow(1, 0, inter)?;
    let up = gate_up.narrow(1, inter, inter)?;
    let gate = match activation {
        Activation::Silu => gate.silu()?,
        Activation::GeluTanh => gate.gelu()?,
    };
    Ok((gate * up)?)
}

/// Computes [`crate::soft_cap`].
pub fn soft_cap(_ctx: &Context, x: &Tensor, cap: f32) -> Result<Tensor> {
    let cap = f64::from(cap);
    Ok(((x / cap)?.tanh()? * cap)?)
}

/// Computes [`crate::mix_rows`].
pub fn mix_rows(_ctx: &Context, x: &Tensor, indices: &[u32], weights: &[f32], each: usize) -> Result<Tensor> {
    let (tokens, dim) = (indices.len() / each, x.dims2()?.1);
    let rows = x.index_select(&Tensor::new(indices, x.device())?, 0)?.reshape((tokens, each, dim))?;
    let weights = Tensor::new(weights, x.device())?.reshape((tokens, each, 1))?;
    Ok(rows.broadcast_mul(&weights)?.sum(1)?)
}

/// Computes [`crate::embedding`].
pub fn embedding(_ctx: &Context, table: &Tensor, first_id: u32, ids: &[u32]) -> Result<Tensor> {
    let read_rows = |index: &Tensor| Ok(table.index_select(index, 0)?.to_dtype(DType::F32)?);
    select_rows(ids, first_id, table.dims2()?, table.device(), read_rows)
}

/// Computes [`crate::embedding_from_matrix`].
pub fn embedding_from_matrix(_ctx: &Context, table: &Matrix, first_id: u32, ids: &[u32]) -> Result<Tensor> {
    let shape = (table.out_features(), table.in_features());
    select_rows(ids, first_id, shape, table.device(), |index| table.select_rows_plain(index))
}

/// Returns, for each id, its row of a table `[rows, hidden]` on `device`, which `read_rows` reads; zeros if the table
/// does not have the id.
fn select_rows(
    ids: &[u32],
    first_id: u32,
    (rows, hidden): (usize, usize),
    device: &Device,
    read_rows: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let local_row = |id: u32| id.checked_sub(first_id).filter(|row| (*row as usize) < rows);
    let is_local: Vec<f32> = ids.iter().map(|id| f32::from(u8::from(local_row(*id).is_some()))).collect();
    if rows == 0 || !is_local.contains(&1.0) {
        return Ok(Tensor::zeros((ids.len(), hidden), DType::F32, device)?);
    }
    let index: Vec<u32> = ids.iter().map(|id| local_row(*id).unwrap_or(0)).collect();
    let found = read_rows(&Tensor::new(index, device)?)?;
    let is_local = Tensor::from_vec(is_local, (ids.len(), 1), device)?;
    let zero = found.zeros_like()?;
    let mask = is_local.gt(0.5)?.broadcast_as(found.shape())?;
    Ok(mask.where_cond(&found, &zero)?)
}
