//! Online softmax (Milakov and Gimelshein 2018, <https://arxiv.org/abs/1805.02867>) of one query tile: its queries pass
//! the splits of the context in order.

use std::marker::PhantomData;

use super::pages::PageLayout;
use super::query_tile::{AttentionCall, Query, QueryTile};
use crate::matrix::format::Format;
use crate::matrix::tile as gemm_tile;
use crate::simd::{LANES, Simd, map, math};

/// Key panels in a split, if blocks are small enough.
const SPLIT_PANELS: usize = 16;

/// The greatest score and the sum of weights of one query; `None` if the query sees no position.
type MaxAndSum = Option<(f32, f32)>;

/// A tile's queries with their running maximum, sum and weighted values. P panels of keys and D vectors of values are
/// in registers at a time.
pub(super) struct OnlineSoftmax<'a, F, const P: usize, const T: usize, const D: usize> {
    call: &'a AttentionCall<'a>,
    tile: &'a QueryTile,
    layout: PageLayout,
    /// Blocks of a split. Their number is fixed, so that splits are.
    split_blocks: usize,
    /// Transposed queries `[depth][T]`.
    q: Vec<f32>,
    /// Scores of the split, and later weights: `[panel][T]`.
    scores: Vec<[[f32; LANES]; T]>,
    /// Weighted values of the split: `[T][width]`.
    split_values: Vec<f32>,
    /// Weighted values of all splits so far: `[T][width]`.
    values: Vec<f32>,
    /// Greatest score and sum of weights of all splits so far.
    running: [MaxAndSum; T],
    format: PhantomData<F>,
}

impl<'a, F: Format, const P: usize, const T: usize, const D: usize> OnlineSoftmax<'a, F, P, T, D> {
    pub(super) fn new(call: &'a AttentionCall<'a>, tile: &'a QueryTile) -> Self {
        let layout = call.pages.layout;
        let split_blocks = (SPLIT_PANELS / layout.key_panels).max(1);
        let mut q = vec![0.0; layout.head_dim.next_multiple_of(2) * T];
        for (t, query) in tile.queries.iter().enumerate() {
            let row = &call.q[query.offset..query.offset + layout.head_dim];
            q[t..].iter_mut().step_by(T).zip(row).for_each(|(to, x)| *to = *x);
        }
        OnlineSoftmax {
            call,
            tile,
            layout,
            split_blocks,
            q,
            scores: vec![[[0.0; LANES]; T]; split_blocks * layout.key_panels + P],
            split_values: vec![0.0; T * layout.width],
            values: vec![0.0; T * layout.width],
            running: [None; T],
            format: PhantomData,
        }
    }

    /// Passes every split that some query sees.
    #[inline(always)]
    pub(super) fn run_splits<S: Simd>(&mut self, s: S) {
        let size = self.split_blocks * self.layout.block_size;
        let first = self.tile.queries.iter().map(|q| q.first).min().unwrap_or(0);
        let last = self.tile.queries.iter().map(|q| q.last).max().unwrap_or(0);
        for split in first / size..=last / size {
            let end = (last + 1).min((split + 1) * size);
            self.compute_scores(s, split * size, end);
            let split_max_and_sum = self.compute_weights(s, split * size, end);
            self.sum_values(s, split * size, end);
            self.merge_split(s, &split_max_and_sum);
        }
    }

    /// Writes the results to the output of the call.
    #[inline(always)]
    pub(super) fn write_output<S: Simd>(&self, s: S) {
        for (t, query) in self.tile.queries.iter().enumerate() {
            let range = query.offset..query.offset + self.layout.head_dim;
            // SAFETY: each (row, head) is in one tile.
            let out = unsafe { self.call.out.slice_mut(range) };
            let values = &self.values[t * self.layout.width..][..self.layout.head_dim];
            let sum = s.splat(self.running[t].map_or(1.0, |(_, sum)| sum));
            map::map(s, [values], [out], |[x]| [s.div(x, sum)]);
        }
    }

    /// Returns the block that holds a position.
    #[inline(always)]
    fn block_of(&self, position: usize) -> usize {
        let seq = &self.call.seqs[self.tile.seq];
        seq.block_table[position / self.layout.block_size] as usize
    }

    /// Returns the position of a panel's first lane, and the number of its lanes that are positions before `end`.
    #[inline(always)]
    fn panel_positions(&self, start: usize, panel: usize, end: usize) -> (usize, usize) {
        let (block, panel) = (panel / self.layout.key_panels, panel % self.layout.key_panels);
        let block_start = start + block * self.layout.block_size;
        let first = block_start + panel * LANES;
        let last = end.min(block_start + self.layout.block_size);
        (first, last.saturating_sub(first).min(LANES))
    }

    /// Returns the number of panels in the split that hold positions before `end`.
    #[inline(always)]
    fn num_panels(&self, start: usize, end: usize) -> usize {
        (end - start).div_ceil(self.layout.block_size) * self.layout.key_panels
    }

    /// Computes the scores of all queries with all positions of the split.
    #[inline(always)]
    fn compute_scores<S: Simd>(&mut self, s: S, start: usize, end: usize) {
        let units = F::units(self.layout.head_dim);
        let num_panels = self.num_panels(start, end);
        for first in (0..num_panels).step_by(P) {
            let panels = std::array::from_fn(|p| {
                // The last panel stands in for a panel beyond the end. Its scores land beyond the end, too.
                let panel = (first + p).min(num_panels - 1);
                let position = start + panel / self.layout.key_panels * self.layout.block_size;
                let block = self.block_of(position);
                let panels = self.call.pages.key_units::<F>(block, self.tile.kv_head);
                &panels[panel % self.layout.key_panels * units..][..units]
            });
            let mut sums = [[s.splat(0.0); T]; P];
            gemm_tile::accumulate::<S, F, P, T>(s, panels, &self.q, &mut sums);
            for (p, sums) in sums.iter().enumerate() {
                for (sum, lanes) in sums.iter().zip(&mut self.scores[first + p]) {
                    s.store(self.call.scale_and_cap(s, *sum), lanes);
                }
            }
        }
    }

    /// Turns the scores into weights relative to the split's greatest. Returns the greatest score and the sum of
    /// weights for each query that sees any of the split.
    #[inline(always)]
    fn compute_weights<S: Simd>(&mut self, s: S, start: usize, end: usize) -> [MaxAndSum; T] {
        let num_panels = self.num_panels(start, end);
        let mut max_and_sum = [None; T];
        for t in 0..T {
            let query = self.tile.queries.get(t).copied();
            let query = query.filter(|query| query.last >= start && query.first < end);
            let Some(query) = query else {
                self.scores[..num_panels].iter_mut().for_each(|scores| scores[t] = [0.0; LANES]);
                continue;
            };
            let mut max = s.splat(f32::NEG_INFINITY);
            for panel in 0..num_panels {
                let visible = self.visible_lanes(&query, start, panel, end);
                let lanes = &mut self.scores[panel][t];
                mask_lanes(lanes, visible, f32::NEG_INFINITY);
                max = s.max(max, s.load(lanes));
            }
            let max = s.max_lane(max);
            let mut sum = s.splat(0.0);
            for panel in 0..num_panels {
                let visible = self.visible_lanes(&query, start, panel, end);
                let lanes = &mut self.scores[panel][t];
                s.store(math::exp(s, s.sub(s.load(lanes), s.splat(max))), lanes);
                mask_lanes(lanes, visible, 0.0);
                sum = s.add(sum, s.load(lanes));
            }
            max_and_sum[t] = Some((max, s.sum(sum)));
        }
        max_and_sum
    }

    /// Returns the range (from, to) of a panel's lanes that a query sees.
    #[inline(always)]
    fn visible_lanes(&self, query: &Query, start: usize, panel: usize, end: usize) -> (usize, usize) {
        let (first, count) = self.panel_positions(start, panel, end);
        let from = query.first.saturating_sub(first).min(LANES);
        (from, (query.last + 1).saturating_sub(first).min(count))
    }

    /// Computes the weighted values of the split: `split_values[t] = Σ weight · value`, positions ascending.
    #[inline(always)]
    fn sum_values<S: Simd>(&mut self, s: S, start: usize, end: usize) {
        let vectors = self.layout.width / LANES;
        let whole = vectors / D * D;
        for first in (0..whole).step_by(D) {
            self.sum_value_vectors::<S, D>(s, start, end, first);
        }
        for first in whole..vectors {
            self.sum_value_vectors::<S, 1>(s, start, end, first);
        }
    }

    /// Computes N vectors of the weighted values, from vector `vector` of their width on.
    #[inline(always)]
    fn sum_value_vectors<S: Simd, const N: usize>(&mut self, s: S, start: usize, end: usize, vector: usize) {
        let mut sums = [[s.splat(0.0); N]; T];
        for panel in 0..self.num_panels(start, end) {
            let (position, count) = self.panel_positions(start, panel, end);
            if count == 0 {
                continue;
            }
            let rows = self.call.pages.value_rows::<F>(self.block_of(position), self.tile.kv_head);
            let slot = position % self.layout.block_size;
            let rows = &rows[slot * self.layout.width..(slot + count) * self.layout.width];
            let weights = &self.scores[panel];
            for (lane, row) in rows.chunks_exact(self.layout.width).enumerate() {
                let row = &row.as_chunks::<LANES>().0[vector..vector + N];
                let mut values = [s.splat(0.0); N];
                for n in 0..N {
                    values[n] = F::widen_row(s, &row[n]);
                }
                for t in 0..T {
                    let weight = s.splat(weights[t][lane]);
                    for n in 0..N {
                        sums[t][n] = s.fma(weight, values[n], sums[t][n]);
                    }
                }
            }
        }
        for (t, sums) in sums.iter().enumerate() {
            let values = &mut self.split_values[t * self.layout.width..(t + 1) * self.layout.width];
            let values = &mut values.as_chunks_mut::<LANES>().0[vector..vector + N];
            values.iter_mut().zip(sums).for_each(|(value, sum)| s.store(*sum, value));
        }
    }

    /// Merges the split with the splits before it.
    #[inline(always)]
    fn merge_split<S: Simd>(&mut self, s: S, split_max_and_sum: &[MaxAndSum; T]) {
        let width = self.layout.width;
        for (t, max_and_sum) in split_max_and_sum.iter().enumerate() {
            let Some((max, sum)) = *max_and_sum else { continue };
            let split_values = &self.split_values[t * width..(t + 1) * width];
            let values = &mut self.values[t * width..(t + 1) * width];
            let Some((old_max, old_sum)) = self.running[t] else {
                values.copy_from_slice(split_values);
                self.running[t] = Some((max, sum));
                continue;
            };
            let new_max = old_max.max(max);
            let rescale = |max: f32| math::exp(s, s.splat(max - new_max));
            let (old, new) = (rescale(old_max), rescale(max));
            let chunks = split_values.as_chunks::<LANES>().0;
            for (value, split_value) in values.as_chunks_mut::<LANES>().0.iter_mut().zip(chunks) {
                let kept = s.mul(s.load(value), old);
                s.store(s.fma(s.load(split_value), new, kept), value);
            }
            let kept = s.mul(s.splat(old_sum), old);
            let mut lanes = [0.0; LANES];
            s.store(s.fma(s.splat(sum), new, kept), &mut lanes);
            self.running[t] = Some((new_max, lanes[0]));
        }
    }
}

impl AttentionCall<'_> {
    /// Applies the scale and the soft cap to a score.
    #[inline(always)]
    fn scale_and_cap<S: Simd>(&self, s: S, score: S::V) -> S::V {
        let score = s.mul(score, s.splat(self.params.scale));
        let Some(cap) = self.params.soft_cap else { return score };
        s.mul(math::tanh(s, s.div(score, s.splat(cap))), s.splat(cap))
    }
}

/// Sets the lanes outside `visible` (from, to) to `value`.
#[inline(always)]
fn mask_lanes(lanes: &mut [f32; LANES], visible: (usize, usize), value: f32) {
    if visible == (0, LANES) {
        return;
    }
    for (lane, x) in lanes.iter_mut().enumerate() {
        if lane < visible.0 || lane >= visible.1 {
            *x = value;
        }
    }
}
