//! Attention on the CPU. The work is cut into query tiles, each a few queries of one KV head of one sequence.
//!
//! A sequence's positions are cut into splits of fixed size, counted from position 0. A query (row, head) meets the
//! splits in order. For each split it computes the scores, their maximum, the weights and the weighted values, and
//! merges them with the earlier splits. The choice of queries in a tile decides only which loads of keys and values
//! are shared: a position that a query does not see has weight zero exactly, and adding it changes no bit. So a query's
//! result depends on its position alone.

use std::marker::PhantomData;

use candle_core::DType;

use super::online_softmax::OnlineSoftmax;
use super::pages::{NewRows, Pages};
use super::query_tile::{AttentionCall, QueryTile};
use super::{AttentionParams, AttentionSeq};
use crate::context::Context;
use crate::isa::Isa;
use crate::matrix::format::{Bf16, F16, F32, Format};
use crate::shared_slice::SharedSlice;
use crate::simd::{self, Kernel, Simd};

/// Writes the new rows into `pages`, then computes attention. The arguments are checked. The result has the size of
/// `q`.
pub(crate) fn attend(
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
    let shared = SharedSlice::new(&mut out);
    let call = AttentionCall { pages, seqs, params, q, heads, out: shared };
    match call.pages.dtype() {
        DType::BF16 => attend_with_format::<Bf16>(ctx, &call),
        DType::F16 => attend_with_format::<F16>(ctx, &call),
        _ => attend_with_format::<F32>(ctx, &call),
    }
    out
}

fn attend_with_format<F: Format>(ctx: &Context, call: &AttentionCall<'_>) {
    let tile_size = if ctx.isa() == Isa::Avx512 { 8 } else { 4 };
    let tiles = call.query_tiles(tile_size);
    match (tiles.iter().map(|tile| tile.queries.len()).max(), ctx.isa()) {
        (None, _) => {}
        (Some(1), _) => run_tiles::<F, 2, 1, 4>(ctx, call, &tiles),
        (Some(2..=4), Isa::Avx512) => run_tiles::<F, 2, 4, 4>(ctx, call, &tiles),
        (Some(2..=4), _) => run_tiles::<F, 1, 4, 1>(ctx, call, &tiles),
        (Some(_), _) => run_tiles::<F, 2, 8, 2>(ctx, call, &tiles),
    }
}

/// Runs the tiles on the threads, one tile at a time each.
fn run_tiles<F: Format, const P: usize, const T: usize, const D: usize>(
    ctx: &Context,
    call: &AttentionCall<'_>,
    tiles: &[QueryTile],
) {
    ctx.pool().for_each_chunk(tiles.len(), 1, &|range| {
        let tiles = &tiles[range];
        let format = PhantomData;
        simd::dispatch(ctx, TileKernel::<F, P, T, D> { call, tiles, format });
    });
}

/// Attention of tiles of up to T queries: P panels of keys and D vectors of values at a time.
struct TileKernel<'a, F, const P: usize, const T: usize, const D: usize> {
    call: &'a AttentionCall<'a>,
    tiles: &'a [QueryTile],
    format: PhantomData<F>,
}

impl<F: Format, const P: usize, const T: usize, const D: usize> Kernel for TileKernel<'_, F, P, T, D> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // The compiler decides this: a shape that its instruction set never gets has no code.
        if P * T > S::ACCUMULATORS || D * T > S::ACCUMULATORS {
            return;
        }
        for tile in self.tiles {
            let mut softmax = OnlineSoftmax::<F, P, T, D>::new(self.call, tile);
            softmax.run_splits(s);
            softmax.write_output(s);
        }
    }
}
