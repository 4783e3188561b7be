//! `x · wᵀ` with quantized weights, on the CPU.
//!
//! Work is cut as in the product of floating-point weights (`matrix::linear`): tiles of rows, runs of panels, two panel
//! streams a thread. Inside a group of 32 columns sums are integers; each group's sum is scaled and added in f32, in
//! order of the columns. So a row's result is the same in any company and on any instruction set.

use super::activations::{self, Group};
use super::layout::{Layout, QUADS};
use super::panels::QuantPanels;
use super::{GROUP, with_layout};
use crate::context::Context;
use crate::isa::Isa;
use crate::matrix::output::Output;
use crate::simd::bytes::{Bytes, BytesKernel, dispatch_bytes};
use crate::simd::{LANES, Simd};
use std::marker::PhantomData;
use std::ops::Range;

/// Columns per block when several tiles pass: a panel's weights and a tile's activations stay in the first-level cache.
const DEPTH: usize = 512;
/// Tiles per row block: their activations stay in the second-level cache.
const TILES: usize = 8;
/// Weight bytes per piece of work.
const PIECE: usize = 128 << 10;
/// How far ahead of its use a weight is asked for, in bytes.
const AHEAD: usize = 1024;
/// Bytes of a cache line.
const LINE: usize = 64;

/// The product of the rows `x`.
pub(in crate::matrix) fn multiply(ctx: &Context, x: &[f32], w: &QuantPanels, output: &Output<'_>) {
    let height = tile_height(ctx.isa(), output.tokens);
    let groups = w.blocks() * w.format().columns() / GROUP;
    let x = match w.in_features() {
        0 => Vec::new(),
        columns => activations::quantize(ctx, x, columns, w.lead(), groups, height),
    };
    let job = Product { w, x: &x, groups, output };
    with_layout!(w.format(), L => job.with_height::<L>(ctx, height));
}

/// The least height of equal tiles that take `tokens` rows in the least number of tiles.
fn tile_height(isa: Isa, tokens: usize) -> usize {
    let heights: &[usize] = match isa {
        Isa::Avx512 => &[1, 2, 4, 8, 12],
        Isa::Avx2 | Isa::Portable => &[1, 2, 4],
    };
    let most = heights[heights.len() - 1];
    let even = tokens.div_ceil(tokens.div_ceil(most));
    heights.iter().copied().find(|height| *height >= even).unwrap_or(most)
}

/// One product, as all threads see it.
struct Product<'a> {
    w: &'a QuantPanels,
    /// `[tile][group][height]`.
    x: &'a [Group],
    groups: usize,
    output: &'a Output<'a>,
}

/// A run of panels of a product, P at a time by T rows: a thread's piece of work.
struct Piece<'a, L, const P: usize, const T: usize> {
    job: &'a Product<'a>,
    panels: Range<usize>,
    layout: PhantomData<L>,
}

impl Product<'_> {
    fn with_height<L: Layout>(&self, ctx: &Context, height: usize) {
        match height {
            1 => self.spread::<L, 2, 1>(ctx),
            2 => self.spread::<L, 2, 2>(ctx),
            4 => self.spread::<L, 1, 4>(ctx),
            8 => self.spread::<L, 1, 8>(ctx),
            _ => self.spread::<L, 1, 12>(ctx),
        }
    }

    /// Spreads the panels over the threads.
    fn spread<L: Layout, const P: usize, const T: usize>(&self, ctx: &Context) {
        let count = self.w.count();
        let panel_bytes = (self.w.bytes() / count).max(1);
        let most = (count / (4 * ctx.threads())).max(2);
        let grain = (PIECE / panel_bytes).clamp(2, most).next_multiple_of(2);
        ctx.pool().for_each_chunk(count, grain, &|panels| {
            dispatch_bytes(ctx, Piece::<L, P, T> { job: self, panels, layout: PhantomData });
        });
    }
}

impl<L: Layout, const P: usize, const T: usize> BytesKernel for Piece<'_, L, P, T> {
    #[inline(always)]
    fn run<S: Bytes>(self, s: S) {
        // The streams start evenly apart; the last one may take its last panel again.
        let stream = self.panels.len().div_ceil(P);
        let tiles = self.job.output.tokens.div_ceil(T);
        for first in (0..tiles).step_by(TILES) {
            let tiles = first..tiles.min(first + TILES);
            for step in 0..stream {
                let mut panels = [0; P];
                for (p, panel) in panels.iter_mut().enumerate() {
                    *panel = (self.panels.start + p * stream + step).min(self.panels.end - 1);
                }
                self.panels(s, panels, tiles.clone());
            }
        }
    }
}

impl<L: Layout, const P: usize, const T: usize> Piece<'_, L, P, T> {
    /// P whole panels by some tiles.
    #[inline(always)]
    fn panels<S: Bytes>(&self, s: S, panels: [usize; P], tiles: Range<usize>) {
        let job = self.job;
        let (bytes, length) = job.w.bytes_of_panels();
        let blocks = job.w.blocks();
        let step = if tiles.len() == 1 { blocks.max(1) } else { (DEPTH / L::COLUMNS).max(1) };
        let groups = L::COLUMNS / GROUP;
        let mut sums = [[[[0.0; LANES]; T]; P]; TILES];
        for first in (0..blocks).step_by(step) {
            let last = blocks.min(first + step);
            for (index, tile) in tiles.clone().enumerate() {
                let x = &job.x[(tile * job.groups + first * groups) * T..(tile * job.groups + last * groups) * T];
                let mut weights: [&[u8]; P] = [&[]; P];
                for p in 0..P {
                    let at = panels[p] * length;
                    weights[p] = &bytes[at + first * L::PANEL..at + last * L::PANEL];
                }
                accumulate::<S, L, P, T>(s, weights, x, &mut sums[index]);
            }
        }
        for (tile, sums) in tiles.zip(&mut sums) {
            for (panel, sums) in panels.into_iter().zip(sums) {
                job.output.write(panel, job.w.out_features(), tile * T, sums);
            }
        }
    }
}

/// Adds to `sums[p][t]` the product of some blocks of panel `p` with those columns of row `t`; `x` is `[group][T]`.
#[inline(always)]
fn accumulate<S: Bytes, L: Layout, const P: usize, const T: usize>(
    s: S,
    weights: [&[u8]; P],
    x: &[Group],
    sums: &mut [[[f32; LANES]; T]; P],
) {
    let f = s.float();
    let groups = L::COLUMNS / GROUP;
    let (x, _) = x.as_chunks::<T>();
    let mut local = [[f.splat(0.0); T]; P];
    for p in 0..P {
        for t in 0..T {
            local[p][t] = f.load(&sums[p][t]);
        }
    }
    for (index, x) in x.chunks_exact(groups).enumerate() {
        for (group, x) in x.iter().enumerate() {
            for p in 0..P {
                let block = &weights[p][index * L::PANEL..][..L::PANEL];
                add_group::<S, L, T>(s, block, group, x, &mut local[p]);
            }
        }
    }
    for p in 0..P {
        for t in 0..T {
            f.store(local[p][t], &mut sums[p][t]);
        }
    }
}

/// One group of 32 columns.
#[inline(always)]
fn add_group<S: Bytes, L: Layout, const T: usize>(
    s: S,
    block: &[u8],
    group: usize,
    x: &[Group; T],
    sums: &mut [<S::Float as Simd>::V; T],
) {
    let f = s.float();
    let bytes = L::PANEL / (L::COLUMNS / GROUP);
    for line in (0..bytes).step_by(LINE) {
        f.prefetch(&block[group * bytes + line], AHEAD);
    }
    let offset = if L::SIGNED { S::SIGNED_OFFSET } else { L::OFFSET };
    let mut dots = [s.splat(0); T];
    for t in 0..T {
        let sum = if L::SCALES == 1 { x[t].sums[0] + x[t].sums[1] } else { x[t].sums[0] };
        dots[t] = s.splat(-offset * sum);
    }
    add_half::<S, L, 0, T>(s, block, group, x, &mut dots);
    if L::SCALES == 2 {
        scale::<S, T>(s, L::scales(s, block, group, 0), x, &dots, sums);
        for t in 0..T {
            dots[t] = s.splat(-offset * x[t].sums[1]);
        }
    }
    add_half::<S, L, 1, T>(s, block, group, x, &mut dots);
    scale::<S, T>(s, L::scales(s, block, group, 1), x, &dots, sums);
    if L::MINIMUMS {
        let minimums = L::minimums(s, block, group);
        for t in 0..T {
            sums[t] = f.fma(minimums, f.splat(x[t].negative_sum), sums[t]);
        }
    }
}

/// The integer products of sixteen columns.
#[inline(always)]
fn add_half<S: Bytes, L: Layout, const HALF: usize, const T: usize>(
    s: S,
    block: &[u8],
    group: usize,
    x: &[Group; T],
    dots: &mut [S::I; T],
) {
    for quad in 0..QUADS {
        let weights = L::quants::<S, HALF>(s, block, group, quad);
        for t in 0..T {
            let x = x[t].quads[HALF * QUADS + quad];
            dots[t] = if L::SIGNED { s.dot_signed(dots[t], weights, x) } else { s.dot(dots[t], weights, x) };
        }
    }
}

/// Scales integer sums and adds them.
#[inline(always)]
fn scale<S: Bytes, const T: usize>(
    s: S,
    scales: <S::Float as Simd>::V,
    x: &[Group; T],
    dots: &[S::I; T],
    sums: &mut [<S::Float as Simd>::V; T],
) {
    let f = s.float();
    for t in 0..T {
        sums[t] = f.fma(f.mul(scales, f.splat(x[t].scale)), s.widen(dots[t]), sums[t]);
    }
}
