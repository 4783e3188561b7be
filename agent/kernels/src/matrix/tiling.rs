//! Cutting of a product into tiles of activation rows and tasks of panels.

use std::ops::Range;

use crate::context::Context;

/// Returns the least of the ascending `heights` whose tiles take `tokens` rows in the least number of tiles.
pub(super) fn tile_height(heights: &[usize], tokens: usize) -> usize {
    let tallest = heights[heights.len() - 1];
    let even = tokens.div_ceil(tokens.div_ceil(tallest));
    heights.iter().copied().find(|height| *height >= even).unwrap_or(tallest)
}

/// Calls `job` with runs of panels that cover `0..num_panels` once, on any thread. A run is about `task_bytes` of the
/// `weight_bytes` of all panels, and at least two panels.
pub(super) fn for_each_panel_run(
    ctx: &Context,
    num_panels: usize,
    weight_bytes: usize,
    task_bytes: usize,
    job: &(dyn Fn(Range<usize>) + Sync),
) {
    let panel_bytes = (weight_bytes / num_panels).max(1);
    let longest = (num_panels / (4 * ctx.threads())).max(2);
    let grain = (task_bytes / panel_bytes).clamp(2, longest).next_multiple_of(2);
    ctx.pool().for_each_chunk(num_panels, grain, job);
}
