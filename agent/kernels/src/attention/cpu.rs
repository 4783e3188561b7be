//! Attention on the CPU: the work as tasks, each a few queries of one KV head of one sequence.
//!
//! A sequence's positions are cut into splits of fixed size, counted from position 0. A query (row,
//! head) meets the splits in order; inside one it takes the scores, their maximum, the weights and the
//! weighted values, and joins them to what came before. Which queries share a task decides only which
//! loads of keys and values are shared: a position that a query does not see has weight zero exactly,
//! and adding it changes no bit. So a query's result depends on its position alone.

use super::pages::{NewRows, Pages};
use super::split::{Query, Split};
use super::{AttentionParams, AttentionSeq};
use crate::context::Context;
use crate::isa::Isa;
use crate::matrix::format::{Bf16, F16, F32, Format};
use crate::shared::Shared;
use crate::simd::{self, Kernel, Simd};
use candle_core::DType;
use std::marker::PhantomData;

/// What all tasks of a call share.
pub(super) struct Call<'a> {
    pub(super) pages: &'a Pages,
    pub(super) seqs: &'a [AttentionSeq<'a>],
    pub(super) params: &'a AttentionParams,
    /// `[tokens, heads, head_dim]`.
    pub(super) q: &'a [f32],
    pub(super) heads: usize,
    /// As `q`.
    pub(super) out: Shared<'a, f32>,
}

/// Up to T queries of one KV head of one sequence.
pub(super) struct Task {
    pub(super) seq: usize,
    pub(super) kv_head: usize,
    /// In order of rows.
    pub(super) queries: Vec<Query>,
}

/// Writes the new rows, then attends; arguments are checked. Returns `q`'s size.
pub(super) fn attend(
    ctx: &Context,
    q: &[f32],
    new: &NewRows<'_>,
    pages: &mut Pages,
    seqs: &[AttentionSeq<'_>],
    params: &AttentionParams,
) -> Vec<f32> {
    pages.write(ctx, seqs, new);
    let mut out = vec![0.0; q.len()];
    let heads = params.kv_head_of.len();
    let shared = Shared::new(&mut out);
    let call = Call { pages, seqs, params, q, heads, out: shared };
    match call.pages.dtype() {
        DType::BF16 => call.with_format::<Bf16>(ctx),
        DType::F16 => call.with_format::<F16>(ctx),
        _ => call.with_format::<F32>(ctx),
    }
    out
}

impl Call<'_> {
    fn with_format<F: Format>(&self, ctx: &Context) {
        let most = if ctx.isa() == Isa::Avx512 { 8 } else { 4 };
        let tasks = self.tasks(most);
        match (tasks.iter().map(|task| task.queries.len()).max(), ctx.isa()) {
            (None, _) => {}
            (Some(1), _) => self.spread::<F, 2, 1, 4>(ctx, &tasks),
            (Some(2..=4), Isa::Avx512) => self.spread::<F, 2, 4, 4>(ctx, &tasks),
            (Some(2..=4), _) => self.spread::<F, 1, 4, 1>(ctx, &tasks),
            (Some(_), _) => self.spread::<F, 2, 8, 2>(ctx, &tasks),
        }
    }

    fn spread<F: Format, const P: usize, const T: usize, const D: usize>(&self, ctx: &Context, tasks: &[Task]) {
        ctx.pool().for_each_chunk(tasks.len(), 1, &|range| {
            let tasks = &tasks[range];
            let format = PhantomData;
            simd::dispatch(ctx, Tasks::<F, P, T, D> { call: self, tasks, format });
        });
    }

    /// All queries, at most `most` to a task.
    fn tasks(&self, most: usize) -> Vec<Task> {
        let kv_heads = self.pages.layout.kv_heads;
        let mut heads_of = vec![Vec::new(); kv_heads];
        for (head, kv_head) in self.params.kv_head_of.iter().enumerate() {
            heads_of[*kv_head].push(head);
        }
        let mut tasks = Vec::new();
        for (index, seq) in self.seqs.iter().enumerate() {
            for (kv_head, heads) in heads_of.iter().enumerate() {
                let queries = (0..seq.rows).flat_map(|row| heads.iter().map(move |head| self.query(seq, row, *head)));
                let queries: Vec<Query> = queries.collect();
                let chunks = queries.chunks(most);
                tasks.extend(chunks.map(|q| Task { seq: index, kv_head, queries: q.to_vec() }));
            }
        }
        tasks
    }

    fn query(&self, seq: &AttentionSeq<'_>, row: usize, head: usize) -> Query {
        let position = seq.position + row;
        let window = self.params.window.unwrap_or(usize::MAX);
        let first = (position + 1).saturating_sub(window);
        let offset = ((seq.first_row + row) * self.heads + head) * self.pages.layout.head_dim;
        Query { first, last: position, offset }
    }
}

/// Tasks of T queries: P panels of keys and D vectors of values at a time.
struct Tasks<'a, F, const P: usize, const T: usize, const D: usize> {
    call: &'a Call<'a>,
    tasks: &'a [Task],
    format: PhantomData<F>,
}

impl<F: Format, const P: usize, const T: usize, const D: usize> Kernel for Tasks<'_, F, P, T, D> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Decided while compiling: a shape that its instruction set never gets has no code.
        if P * T > S::SUMS || D * T > S::SUMS {
            return;
        }
        for task in self.tasks {
            let mut split = Split::<F, P, T, D>::new(self.call, task);
            split.pass_all(s);
            split.finish(s);
        }
    }
}
