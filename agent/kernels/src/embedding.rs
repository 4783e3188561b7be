//! Embedding lookup in one rank's range of the vocabulary.

use crate::context::Context;
use crate::error::Result;
use crate::{check, plain};
use candle_core::Tensor;

/// Rows of `table` `[rows, hidden]` (f32, bf16 or f16) for `ids`, as f32 `[ids, hidden]`.
///
/// The table holds the ids `first_id..first_id + rows`; an id outside gives a row of zeros, so that
/// the sum over ranks is the embedding.
pub fn embedding(ctx: &Context, table: &Tensor, first_id: u32, ids: &[u32]) -> Result<Tensor> {
    check::weight("embedding table", table)?;
    plain::embedding(ctx, table, first_id, ids)
}
