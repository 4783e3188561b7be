//! Blocks of a whole matrix, sixteen rows after sixteen rows: what is in memory at once does not grow with the matrix.

use crate::context::Context;
use crate::error::{Error, Result};
use crate::simd::LANES;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Runs of sixteen rows per piece of work.
const GRAIN: usize = 4;

/// Appends the blocks of some rows.
pub(super) type ReadRows<'a> = dyn Fn(Range<usize>, &mut Vec<u8>) -> Result<()> + Sync + 'a;

/// Lets `read` append the blocks of each run of sixteen of `rows` rows, the last one shorter, and hands them to `take`
/// with the rows that they are of; each run is visited once, by any thread.
pub(super) fn each_run(
    ctx: &Context,
    rows: usize,
    read: &ReadRows<'_>,
    take: &(dyn Fn(Range<usize>, &[u8]) + Sync),
) -> Result<()> {
    let failure: Mutex<Option<Error>> = Mutex::default();
    ctx.pool().for_each_chunk(rows.div_ceil(LANES), GRAIN, &|range| {
        let mut bytes = Vec::new();
        for index in range {
            bytes.clear();
            let run = index * LANES..rows.min((index + 1) * LANES);
            if let Err(error) = read(run.clone(), &mut bytes) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
            take(run, &bytes);
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
