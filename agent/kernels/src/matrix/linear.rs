//! `x · wᵀ + bias` on the CPU.
//!
//! Rows of activations are cut into tiles of equal height T and packed `[tile][k][T]`. Pieces of work
//! are runs of panels that threads take as they become free; inside one, two panels from the two
//! halves of the run go side by side, so that a thread reads two streams. One tile: weights stream
//! through once, over all of k. Several tiles: k goes in blocks whose weights stay in the first-level
//! cache while every tile of a row block passes, sums waiting in a scratch in between. Each output is
//! the same chain of fused multiply-adds in all these cases.

use super::format::{Bf16, F16, F32, Format};
use super::output::Output;
use super::panels::Panels;
use super::tile;
use crate::context::Context;
use crate::isa::Isa;
use crate::shared::Shared;
use crate::simd::{self, Kernel, LANES, Simd};
use candle_core::DType;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Range;

/// k's per block when several tiles pass: two panels of f32 take half of a 48 KiB cache.
const DEPTH: usize = 192;
/// Tiles per row block: their activations stay in the second-level cache.
const TILES: usize = 8;
/// Weight bytes per piece of work: enough for long streams, little enough to even out the threads.
const PIECE: usize = 256 << 10;

/// The product of the rows `x`.
pub(super) fn multiply(ctx: &Context, x: &[f32], w: &Panels, output: &Output<'_>) {
    let height = tile_height(ctx.isa(), output.tokens);
    let depth = w.in_features().next_multiple_of(2);
    let packed = pack(ctx, x, w.in_features(), depth, height);
    let job = Product { w, x: &packed, depth, output };
    match w.dtype() {
        DType::BF16 => job.with_height::<Bf16>(ctx, height),
        DType::F16 => job.with_height::<F16>(ctx, height),
        _ => job.with_height::<F32>(ctx, height),
    }
}

/// The least height of equal tiles that take `tokens` rows in the least number of tiles.
fn tile_height(isa: Isa, tokens: usize) -> usize {
    let heights: &[usize] = match isa {
        Isa::Avx512 => &[1, 2, 4, 8, 12],
        Isa::Avx2 => &[1, 2, 4, 6],
        Isa::Portable => &[1, 2, 4],
    };
    let most = heights[heights.len() - 1];
    let even = tokens.div_ceil(tokens.div_ceil(most));
    heights.iter().copied().find(|height| *height >= even).unwrap_or(most)
}

/// `x` `[rows, columns]` as `[tile][depth][height]`, zero where there is no row or column.
fn pack<'a>(ctx: &Context, x: &'a [f32], columns: usize, depth: usize, height: usize) -> Cow<'a, [f32]> {
    /// k's per piece of work.
    const GRAIN: usize = 512;
    let rows = x.len().checked_div(columns).unwrap_or(0);
    if rows <= 1 && depth == columns && height == 1 {
        return Cow::Borrowed(x);
    }
    let tiles = rows.div_ceil(height);
    let mut packed = vec![0.0; tiles * depth * height];
    let shared = Shared::new(&mut packed);
    ctx.pool().for_each_chunk(columns, GRAIN, &|range| {
        for (tile, rows) in x.chunks(columns * height).enumerate() {
            let part = tile * depth + range.start..tile * depth + range.end;
            // SAFETY: parts differ by tile, and ranges of k do not overlap.
            let part = unsafe { shared.part(part.start * height..part.end * height) };
            for (t, row) in rows.chunks_exact(columns).enumerate() {
                let to = part[t..].iter_mut().step_by(height);
                to.zip(&row[range.clone()]).for_each(|(to, from)| *to = *from);
            }
        }
    });
    Cow::Owned(packed)
}

/// One product, as all threads see it.
struct Product<'a> {
    w: &'a Panels,
    /// `[tile][depth][height]`.
    x: &'a [f32],
    depth: usize,
    output: &'a Output<'a>,
}

/// A run of panels of a product, P at a time by T rows: a thread's piece of work.
struct Piece<'a, F, const P: usize, const T: usize> {
    job: &'a Product<'a>,
    panels: Range<usize>,
    format: PhantomData<F>,
}

impl Product<'_> {
    /// One panel at a time where two by `height` sums would not fit in a narrow set's registers.
    fn with_height<F: Format>(&self, ctx: &Context, height: usize) {
        match (height, ctx.isa()) {
            (1, _) => self.spread::<F, 2, 1>(ctx),
            (2, _) => self.spread::<F, 2, 2>(ctx),
            (4, Isa::Avx512) => self.spread::<F, 2, 4>(ctx),
            (4, _) => self.spread::<F, 1, 4>(ctx),
            (6, _) => self.spread::<F, 1, 6>(ctx),
            (8, _) => self.spread::<F, 2, 8>(ctx),
            _ => self.spread::<F, 2, 12>(ctx),
        }
    }

    /// Spreads the panels over the threads.
    fn spread<F: Format, const P: usize, const T: usize>(&self, ctx: &Context) {
        let count = self.w.count();
        let panel_bytes = (self.w.bytes() / count).max(1);
        let most = (count / (4 * ctx.threads())).max(2);
        let grain = (PIECE / panel_bytes).clamp(2, most).next_multiple_of(2);
        ctx.pool().for_each_chunk(count, grain, &|panels| {
            let piece = Piece::<F, P, T> { job: self, panels, format: PhantomData };
            simd::dispatch(ctx, piece);
        });
    }
}

impl<F: Format, const P: usize, const T: usize> Kernel for Piece<'_, F, P, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Decided while compiling: a shape that its instruction set never gets has no code.
        if P * T > S::SUMS {
            return;
        }
        // The streams start evenly apart. The last one is shorter by at most one panel, and takes its
        // last panel again: the same values, written twice by this thread.
        let stream = self.panels.len().div_ceil(P);
        let tiles = self.job.output.tokens.div_ceil(T);
        for first in (0..tiles).step_by(TILES) {
            let tiles = first..tiles.min(first + TILES);
            for step in 0..stream {
                let panel = |p: usize| (self.panels.start + p * stream + step).min(self.panels.end - 1);
                self.panels(s, std::array::from_fn(panel), tiles.clone());
            }
        }
    }
}

impl<F: Format, const P: usize, const T: usize> Piece<'_, F, P, T> {
    /// P whole panels by some tiles.
    #[inline(always)]
    fn panels<S: Simd>(&self, s: S, panels: [usize; P], tiles: Range<usize>) {
        let job = self.job;
        let (units, length) = job.w.units::<F>();
        let weights = panels.map(|panel| &units[panel * length..(panel + 1) * length]);
        let block = if tiles.len() == 1 { length.max(1) } else { DEPTH / F::STEP };
        let mut sums = [[[s.splat(0.0); T]; P]; TILES];
        for first in (0..length).step_by(block) {
            let weights = weights.map(|panel| &panel[first..length.min(first + block)]);
            for (tile, sums) in tiles.clone().zip(&mut sums) {
                let x = &job.x[(tile * job.depth + first * F::STEP) * T..];
                tile::accumulate::<S, F, P, T>(s, weights, x, sums);
            }
        }
        for (tile, sums) in tiles.zip(&sums) {
            for (panel, sums) in panels.into_iter().zip(sums) {
                let mut lanes = [[0.0; LANES]; T];
                sums.iter().zip(&mut lanes).for_each(|(sum, lanes)| s.store(*sum, lanes));
                job.output.write(panel, job.w.out_features(), tile * T, &mut lanes);
            }
        }
    }
}
