//! One task of attention: its queries pass the splits of the context in order.

use super::cpu::{Call, Task};
use super::pages::Layout;
use crate::matrix::format::Format;
use crate::matrix::tile;
use crate::simd::{LANES, Simd, map, math};
use std::marker::PhantomData;

/// Panels of keys in a split, where blocks are small enough.
const GROUPS: usize = 16;

/// One (row, head): it sees the positions `first..=last` and lies at `offset` in `q` and the output.
#[derive(Clone, Copy)]
pub(super) struct Query {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) offset: usize,
}

/// A task's queries with their sums so far.
pub(super) struct Split<'a, F, const P: usize, const T: usize, const D: usize> {
    call: &'a Call<'a>,
    task: &'a Task,
    layout: Layout,
    /// Blocks of a split: fixed, so that splits are.
    blocks: usize,
    /// `[depth][T]`: the queries, turned.
    q: Vec<f32>,
    /// `[group][T]`: scores of the split, then weights.
    scores: Vec<[[f32; LANES]; T]>,
    /// `[T][width]`: weighted values of the split and of all splits before.
    part: Vec<f32>,
    total: Vec<f32>,
    /// Greatest score and sum of weights so far; none before the first split that a query sees.
    state: [Option<(f32, f32)>; T],
    format: PhantomData<F>,
}

impl<'a, F: Format, const P: usize, const T: usize, const D: usize> Split<'a, F, P, T, D> {
    pub(super) fn new(call: &'a Call<'a>, task: &'a Task) -> Self {
        let layout = call.pages.layout;
        let blocks = (GROUPS / layout.groups).max(1);
        let mut q = vec![0.0; layout.head_dim.next_multiple_of(2) * T];
        for (t, query) in task.queries.iter().enumerate() {
            let row = &call.q[query.offset..query.offset + layout.head_dim];
            q[t..].iter_mut().step_by(T).zip(row).for_each(|(to, x)| *to = *x);
        }
        Split {
            call,
            task,
            layout,
            blocks,
            q,
            scores: vec![[[0.0; LANES]; T]; blocks * layout.groups + P],
            part: vec![0.0; T * layout.width],
            total: vec![0.0; T * layout.width],
            state: [None; T],
            format: PhantomData,
        }
    }

    /// Passes every split that some query sees.
    #[inline(always)]
    pub(super) fn pass_all<S: Simd>(&mut self, s: S) {
        let size = self.blocks * self.layout.block_size;
        let first = self.task.queries.iter().map(|q| q.first).min().unwrap_or(0);
        let last = self.task.queries.iter().map(|q| q.last).max().unwrap_or(0);
        for split in first / size..=last / size {
            let end = (last + 1).min((split + 1) * size);
            self.score(s, split * size, end);
            let seen = self.weigh(s, split * size, end);
            self.gather(s, split * size, end);
            self.join(s, &seen);
        }
    }

    /// Writes the results.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(&self, s: S) {
        for (t, query) in self.task.queries.iter().enumerate() {
            let at = query.offset..query.offset + self.layout.head_dim;
            // SAFETY: each (row, head) is in one task.
            let out = unsafe { self.call.out.part(at) };
            let total = &self.total[t * self.layout.width..][..self.layout.head_dim];
            let weight = s.splat(self.state[t].map_or(1.0, |(_, weight)| weight));
            map::map(s, [total], [out], |[x]| [s.div(x, weight)]);
        }
    }

    /// The table's block of a position.
    #[inline(always)]
    fn block(&self, position: usize) -> usize {
        let seq = &self.call.seqs[self.task.seq];
        seq.block_table[position / self.layout.block_size] as usize
    }

    /// The position of a group's first lane, and how many of its lanes are positions before `end`.
    #[inline(always)]
    fn lanes(&self, start: usize, group: usize, end: usize) -> (usize, usize) {
        let (block, group) = (group / self.layout.groups, group % self.layout.groups);
        let block_start = start + block * self.layout.block_size;
        let first = block_start + group * LANES;
        let last = end.min(block_start + self.layout.block_size);
        (first, last.saturating_sub(first).min(LANES))
    }

    /// Groups of the split that hold positions before `end`.
    #[inline(always)]
    fn groups(&self, start: usize, end: usize) -> usize {
        (end - start).div_ceil(self.layout.block_size) * self.layout.groups
    }

    /// Scores of all queries with all positions of the split.
    #[inline(always)]
    fn score<S: Simd>(&mut self, s: S, start: usize, end: usize) {
        let units = F::units(self.layout.head_dim);
        let groups = self.groups(start, end);
        for first in (0..groups).step_by(P) {
            let panels = std::array::from_fn(|p| {
                // The last panel stands in for one beyond the end; its scores land beyond it too.
                let group = (first + p).min(groups - 1);
                let position = start + group / self.layout.groups * self.layout.block_size;
                let block = self.block(position);
                let panels = self.call.pages.key_units::<F>(block, self.task.kv_head);
                &panels[group % self.layout.groups * units..][..units]
            });
            let mut sums = [[s.splat(0.0); T]; P];
            tile::accumulate::<S, F, P, T>(s, panels, &self.q, &mut sums);
            for (p, sums) in sums.iter().enumerate() {
                for (sum, lanes) in sums.iter().zip(&mut self.scores[first + p]) {
                    s.store(self.call.bend(s, *sum), lanes);
                }
            }
        }
    }

    /// Turns the scores into weights relative to the split's greatest; returns, for each query that
    /// sees any of the split, the greatest score and the sum of weights.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, s: S, start: usize, end: usize) -> [Option<(f32, f32)>; T] {
        let groups = self.groups(start, end);
        let mut seen = [None; T];
        for t in 0..T {
            let query = self.task.queries.get(t).copied();
            let query = query.filter(|query| query.last >= start && query.first < end);
            let Some(query) = query else {
                self.scores[..groups].iter_mut().for_each(|scores| scores[t] = [0.0; LANES]);
                continue;
            };
            let mut top = s.splat(f32::NEG_INFINITY);
            for group in 0..groups {
                let lanes_seen = self.seen_lanes(&query, start, group, end);
                let lanes = &mut self.scores[group][t];
                hide(lanes, lanes_seen, f32::NEG_INFINITY);
                top = s.max(top, s.load(lanes));
            }
            let top = s.max_lane(top);
            let mut sum = s.splat(0.0);
            for group in 0..groups {
                let lanes_seen = self.seen_lanes(&query, start, group, end);
                let lanes = &mut self.scores[group][t];
                s.store(math::exp(s, s.sub(s.load(lanes), s.splat(top))), lanes);
                hide(lanes, lanes_seen, 0.0);
                sum = s.add(sum, s.load(lanes));
            }
            seen[t] = Some((top, s.sum(sum)));
        }
        seen
    }

    /// Which lanes of a group a query sees: from, to.
    #[inline(always)]
    fn seen_lanes(&self, query: &Query, start: usize, group: usize, end: usize) -> (usize, usize) {
        let (first, count) = self.lanes(start, group, end);
        let from = query.first.saturating_sub(first).min(LANES);
        (from, (query.last + 1).saturating_sub(first).min(count))
    }

    /// Weighted values of the split: `part[t] = Σ weight · value`, positions ascending.
    #[inline(always)]
    fn gather<S: Simd>(&mut self, s: S, start: usize, end: usize) {
        let vectors = self.layout.width / LANES;
        let whole = vectors / D * D;
        for first in (0..whole).step_by(D) {
            self.gather_vectors::<S, D>(s, start, end, first);
        }
        for first in whole..vectors {
            self.gather_vectors::<S, 1>(s, start, end, first);
        }
    }

    /// N vectors of the values' width.
    #[inline(always)]
    fn gather_vectors<S: Simd, const N: usize>(&mut self, s: S, start: usize, end: usize, vector: usize) {
        let mut sums = [[s.splat(0.0); N]; T];
        for group in 0..self.groups(start, end) {
            let (position, count) = self.lanes(start, group, end);
            if count == 0 {
                continue;
            }
            let rows = self.call.pages.value_rows::<F>(self.block(position), self.task.kv_head);
            let slot = position % self.layout.block_size;
            let rows = &rows[slot * self.layout.width..(slot + count) * self.layout.width];
            let weights = &self.scores[group];
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
            let part = &mut self.part[t * self.layout.width..(t + 1) * self.layout.width];
            let part = &mut part.as_chunks_mut::<LANES>().0[vector..vector + N];
            part.iter_mut().zip(sums).for_each(|(part, sum)| s.store(*sum, part));
        }
    }

    /// Joins the split to what came before it.
    #[inline(always)]
    fn join<S: Simd>(&mut self, s: S, seen: &[Option<(f32, f32)>; T]) {
        let width = self.layout.width;
        for (t, seen) in seen.iter().enumerate() {
            let Some((top, weight)) = *seen else { continue };
            let part = &self.part[t * width..(t + 1) * width];
            let total = &mut self.total[t * width..(t + 1) * width];
            let Some((old_top, old_weight)) = self.state[t] else {
                total.copy_from_slice(part);
                self.state[t] = Some((top, weight));
                continue;
            };
            let new_top = old_top.max(top);
            let shrink = |top: f32| math::exp(s, s.splat(top - new_top));
            let (old, new) = (shrink(old_top), shrink(top));
            for (total, part) in total.as_chunks_mut::<LANES>().0.iter_mut().zip(part.as_chunks::<LANES>().0) {
                let kept = s.mul(s.load(total), old);
                s.store(s.fma(s.load(part), new, kept), total);
            }
            let kept = s.mul(s.splat(old_weight), old);
            let mut lanes = [0.0; LANES];
            s.store(s.fma(s.splat(weight), new, kept), &mut lanes);
            self.state[t] = Some((new_top, lanes[0]));
        }
    }
}

impl Call<'_> {
    /// Scale and soft cap of a score.
    #[inline(always)]
    fn bend<S: Simd>(&self, s: S, score: S::V) -> S::V {
        let score = s.mul(score, s.splat(self.params.scale));
        let Some(cap) = self.params.soft_cap else { return score };
        s.mul(math::tanh(s, s.div(score, s.splat(cap))), s.splat(cap))
    }
}

/// Sets the lanes outside `seen` (from, to) to `value`.
#[inline(always)]
fn hide(lanes: &mut [f32; LANES], seen: (usize, usize), value: f32) {
    if seen == (0, LANES) {
        return;
    }
    for (lane, x) in lanes.iter_mut().enumerate() {
        if lane < seen.0 || lane >= seen.1 {
            *x = value;
        }
    }
}
