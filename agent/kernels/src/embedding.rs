//! Embedding lookup in one rank's range of the vocabulary.

use candle_core::Tensor;

use crate::context::Context;
use crate::error::Result;
use crate::host::HostElements;
use crate::matrix::Matrix;
use crate::matrix::format::{Bf16, F16, F32, Format};
use crate::shared_slice::SharedSlice;
use crate::{check, host, plain, rows};

/// Returns the rows of `table` `[rows, hidden]` (f32, bf16 or f16) for `ids`, as f32 `[ids, hidden]`.
///
/// The table holds the ids `first_id..first_id + rows`. An id outside gives a row of zeros, so that the sum over ranks
/// is the embedding.
pub fn embedding(ctx: &Context, table: &Tensor, first_id: u32, ids: &[u32]) -> Result<Tensor> {
    let (rows, hidden) = check::weight("embedding table", table)?;
    if !ctx.has_kernels() {
        return plain::embedding(ctx, table, first_id, ids);
    }
    let table = host::borrow("embedding table", table)?;
    let elements = table.elements()?;
    gather_rows(ctx, ids, hidden, &|id, to| {
        let Some(row) = local_row(id, first_id, rows) else { return };
        let row = row * hidden..(row + 1) * hidden;
        match &elements {
            HostElements::F32(table) => widen::<F32>(&table[row], to),
            HostElements::Bf16(table) => widen::<Bf16>(&table[row], to),
            HostElements::F16(table) => widen::<F16>(&table[row], to),
        }
    })
}

/// Returns the rows for `ids` like [`embedding`], from a matrix that is packed for products. A tied lm_head needs no
/// second copy.
pub fn embedding_from_matrix(ctx: &Context, table: &Matrix, first_id: u32, ids: &[u32]) -> Result<Tensor> {
    if !table.is_packed() {
        return plain::embedding_from_matrix(ctx, table, first_id, ids);
    }
    gather_rows(ctx, ids, table.in_features(), &|id, to| {
        if let Some(row) = local_row(id, first_id, table.out_features()) {
            table.read_row(row, to);
        }
    })
}

/// Returns one row of `hidden` for each id, which `fill` writes over zeros.
fn gather_rows(ctx: &Context, ids: &[u32], hidden: usize, fill: &(dyn Fn(u32, &mut [f32]) + Sync)) -> Result<Tensor> {
    let mut out = vec![0.0; ids.len() * hidden];
    let length = out.len();
    let shared = SharedSlice::new(&mut out);
    rows::for_each_row_range(ctx, length, hidden, &|elements| {
        let ids = &ids[elements.start / hidden..elements.end / hidden];
        // SAFETY: runs of rows do not overlap.
        let rows = unsafe { shared.slice_mut(elements) };
        ids.iter().zip(rows.chunks_exact_mut(hidden)).for_each(|(id, row)| fill(*id, row));
    });
    host::tensor(out, (ids.len(), hidden))
}

/// Returns the table's row of an id, if the id is in this part of the vocabulary.
fn local_row(id: u32, first_id: u32, rows: usize) -> Option<usize> {
    id.checked_sub(first_id).map(|row| row as usize).filter(|row| *row < rows)
}

fn widen<F: Format>(row: &[F::Element], to: &mut [f32]) {
    to.iter_mut().zip(row).for_each(|(to, element)| *to = F::decode(*element));
}
