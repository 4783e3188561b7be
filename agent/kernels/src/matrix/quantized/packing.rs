//! Traversal of a whole matrix in row blocks of sixteen rows, so that the memory in use does not grow with the matrix.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::simd::LANES;

/// Row blocks of sixteen rows per task.
const ROW_BLOCKS_PER_TASK: usize = 4;

/// Function that appends the blocks of some rows.
pub(super) type AppendBlocks<'a> = dyn Fn(Range<usize>, &mut Vec<u8>) -> Result<()> + Sync + 'a;

/// Calls `append` for each row block (sixteen of `rows` rows, the last one shorter), then `consume` with its rows and
/// the appended blocks. Each row block is visited once, by any thread. Returns the first error of `append`.
pub(super) fn for_each_row_block(
    ctx: &Context,
    rows: usize,
    append: &AppendBlocks<'_>,
    consume: &(dyn Fn(Range<usize>, &[u8]) + Sync),
) -> Result<()> {
    let failure: Mutex<Option<Error>> = Mutex::default();
    ctx.pool().for_each_chunk(rows.div_ceil(LANES), ROW_BLOCKS_PER_TASK, &|range| {
        let mut bytes = Vec::new();
        for index in range {
            bytes.clear();
            let row_block = index * LANES..rows.min((index + 1) * LANES);
            if let Err(error) = append(row_block.clone(), &mut bytes) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
            consume(row_block, &bytes);
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
