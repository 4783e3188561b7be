//! Splitting of elementwise work over the threads by rows.

use std::ops::Range;

use crate::context::Context;

/// Elements per task: some microseconds of work, so that small steps stay on the caller's thread.
const TASK_ELEMENTS: usize = 16 << 10;

/// Calls `job` with ranges of elements that hold whole rows of `width` and cover `0..length` once.
pub(crate) fn for_each_row_range(ctx: &Context, length: usize, width: usize, job: &(dyn Fn(Range<usize>) + Sync)) {
    let rows = length.checked_div(width).unwrap_or(0);
    ctx.pool().for_each_chunk(rows, (TASK_ELEMENTS / width.max(1)).max(1), &|rows| {
        job(rows.start * width..rows.end * width);
    });
}
