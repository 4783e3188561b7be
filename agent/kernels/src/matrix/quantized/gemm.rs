//! The product `x · wᵀ` with quantized weights, on the CPU.
//!
//! Work is cut as in the product of floating-point weights (`matrix::gemm`): tiles of rows, and runs of panels. A
//! thread reads two streams of panels if a tile has one or two rows, and one stream if a tile has more. The sum over
//! the 16 or 32 columns of one scale is an integer. The two sums of 32 columns are scaled and joined in f32, then scaled
//! by the activations' scale and added, in order of the columns. So a row's result is the same in any batch and on any
//! instruction set.

use std::marker::PhantomData;
use std::ops::Range;

use super::activations::{self, ActivationGroup};
use super::decoded::{self, DecodedBlock};
use super::layout::{BlockLayout, QUADS};
use super::panels::QuantPanels;
use super::{GROUP_SIZE, with_layout};
use crate::context::Context;
use crate::isa::Isa;
use crate::matrix::output::OutputColumns;
use crate::matrix::tiling;
use crate::simd::int8::{Int8Kernel, Int8Simd, MAX_SHORT_QUANT};
use crate::simd::{LANES, Simd, dispatch_int8};

/// Columns per block if there are several tiles. A panel's weights and a tile's activations then stay in the
/// first-level cache.
const COLUMN_BLOCK: usize = 512;
/// Tiles per row block. Their activations stay in the second-level cache.
const TILES_PER_ROW_BLOCK: usize = 12;
/// Weight bytes per task.
const TASK_BYTES: usize = 128 << 10;
/// Distance in bytes between a weight in use and the weight that is prefetched.
const PREFETCH_BYTES: usize = 1024;
/// Bytes of a cache line.
const CACHE_LINE: usize = 64;

/// Multiplies the rows `x` by the panels `w` and writes the result to `output`.
pub(in crate::matrix) fn multiply(ctx: &Context, x: &[f32], w: &QuantPanels, output: &OutputColumns<'_>) {
    let heights: &[usize] = match ctx.isa() {
        // The sums of twelve rows do not all fit registers, so several tiles have eight.
        Isa::Avx512 if output.tokens > 12 => &[8],
        Isa::Avx512 => &[1, 2, 4, 8, 12],
        Isa::Avx2 | Isa::Portable => &[1, 2, 4],
    };
    let height = tiling::tile_height(heights, output.tokens);
    let groups = w.blocks() * w.format().columns() / GROUP_SIZE;
    let x = match w.in_features() {
        0 => Vec::new(),
        columns => activations::quantize(ctx, x, columns, w.lead(), groups, height),
    };
    let gemm = QuantGemm { ctx, w, x: &x, groups, output };
    with_layout!(w.format(), L => gemm.run_with_height::<L>(height));
}

/// A product, shared by all threads.
struct QuantGemm<'a> {
    ctx: &'a Context,
    w: &'a QuantPanels,
    /// Quantized activations `[tile][group][height]`.
    x: &'a [ActivationGroup],
    groups: usize,
    output: &'a OutputColumns<'a>,
}

/// A task: a run of panels of a product, multiplied P panels by T rows at a time.
struct QuantGemmTask<'a, L, const P: usize, const T: usize> {
    gemm: &'a QuantGemm<'a>,
    panels: Range<usize>,
    layout: PhantomData<L>,
}

impl QuantGemm<'_> {
    fn run_with_height<L: BlockLayout>(&self, height: usize) {
        match height {
            1 => self.run_tasks::<L, 2, 1>(),
            2 => self.run_tasks::<L, 2, 2>(),
            4 => self.run_tasks::<L, 1, 4>(),
            8 => self.run_tasks::<L, 1, 8>(),
            _ => self.run_tasks::<L, 1, 12>(),
        }
    }

    /// Runs one task for each run of panels.
    fn run_tasks<L: BlockLayout, const P: usize, const T: usize>(&self) {
        let ctx = self.ctx;
        tiling::for_each_panel_run(ctx, self.w.num_panels(), self.w.bytes(), TASK_BYTES, &|panels| {
            dispatch_int8(ctx, QuantGemmTask::<L, P, T> { gemm: self, panels, layout: PhantomData });
        });
    }
}

impl<L: BlockLayout, const P: usize, const T: usize> Int8Kernel for QuantGemmTask<'_, L, P, T> {
    #[inline(always)]
    fn run<S: Int8Simd>(self, s: S) {
        // The streams start evenly apart. The last one may take its last panel again.
        let stream = self.panels.len().div_ceil(P);
        let tiles = self.gemm.output.tokens.div_ceil(T);
        let mut decoded = [DecodedBlock::ZERO; P];
        for first in (0..tiles).step_by(TILES_PER_ROW_BLOCK) {
            let tiles = first..tiles.min(first + TILES_PER_ROW_BLOCK);
            for step in 0..stream {
                let mut panels = [0; P];
                for (p, panel) in panels.iter_mut().enumerate() {
                    *panel = (self.panels.start + p * stream + step).min(self.panels.end - 1);
                }
                if T == 1 && L::has_row_product::<S>() {
                    self.multiply_row(s, panels);
                } else {
                    self.multiply_panels(s, panels, tiles.clone(), &mut decoded);
                }
            }
        }
    }
}

impl<L: BlockLayout, const P: usize, const T: usize> QuantGemmTask<'_, L, P, T> {
    /// Multiplies P whole panels, as they are packed, by the only row.
    #[inline(always)]
    fn multiply_row<S: Int8Simd>(&self, s: S, panels: [usize; P]) {
        let gemm = self.gemm;
        let (bytes, length) = gemm.w.panel_bytes();
        let groups = L::COLUMNS / GROUP_SIZE;
        let mut sums = [s.float().splat(0.0); P];
        for block in 0..gemm.w.blocks() {
            let x = &gemm.x[block * groups..(block + 1) * groups];
            for p in 0..P {
                let weights = &bytes[panels[p] * length + block * L::PANEL_BYTES..][..L::PANEL_BYTES];
                if L::IS_DECODED {
                    prefetch_after(s, weights, PREFETCH_BYTES);
                }
                sums[p] = L::add_row(s, weights, x, sums[p]);
            }
        }
        for p in 0..P {
            let mut lanes = [[0.0; LANES]];
            s.float().store(s.float().mul(sums[p], s.float().splat(gemm.w.factor())), &mut lanes[0]);
            gemm.output.write(panels[p], gemm.w.out_features(), 0, &mut lanes);
        }
    }

    /// Multiplies P whole panels by some tiles. `decoded` has room for a block of each panel.
    #[inline(always)]
    fn multiply_panels<S: Int8Simd>(
        &self,
        s: S,
        panels: [usize; P],
        tiles: Range<usize>,
        decoded: &mut [DecodedBlock; P],
    ) {
        let gemm = self.gemm;
        let (bytes, length) = gemm.w.panel_bytes();
        let blocks = gemm.w.blocks();
        let step = match tiles.len() {
            _ if L::IS_DECODED => 1,
            1 => blocks.max(1),
            _ => (COLUMN_BLOCK / L::COLUMNS).max(1),
        };
        let groups = L::COLUMNS / GROUP_SIZE;
        let mut sums = [[[[0.0; LANES]; T]; P]; TILES_PER_ROW_BLOCK];
        for first in (0..blocks).step_by(step) {
            let last = blocks.min(first + step);
            let mut weights: [&[u8]; P] = [&[]; P];
            for (p, decoded) in decoded.iter_mut().enumerate() {
                let start = panels[p] * length;
                weights[p] = &bytes[start + first * L::PANEL_BYTES..start + last * L::PANEL_BYTES];
                if L::IS_DECODED {
                    prefetch_after(s, weights[p], PREFETCH_BYTES);
                    decoded::decode::<L>(gemm.ctx, weights[p], decoded);
                    weights[p] = decoded.bytes();
                }
            }
            for (index, tile) in tiles.clone().enumerate() {
                let x = &gemm.x[(tile * gemm.groups + first * groups) * T..(tile * gemm.groups + last * groups) * T];
                // The other tiles find the weights in the cache.
                let ahead = if tiles.len() == 1 { PREFETCH_BYTES } else { (last - first) * L::PANEL_BYTES };
                let ahead = (index == 0).then_some(ahead);
                accumulate::<S, L, P, T>(s, weights, x, ahead, &mut sums[index]);
            }
        }
        for (tile, sums) in tiles.zip(&mut sums) {
            for (panel, sums) in panels.into_iter().zip(sums) {
                sums.as_flattened_mut().iter_mut().for_each(|sum| *sum *= gemm.w.factor());
                gemm.output.write(panel, gemm.w.out_features(), tile * T, sums);
            }
        }
    }
}

/// Prefetches what comes `distance` bytes after `weights`.
#[inline(always)]
fn prefetch_after<S: Int8Simd>(s: S, weights: &[u8], distance: usize) {
    for line in (0..weights.len()).step_by(CACHE_LINE) {
        s.float().prefetch(&weights[line], distance);
    }
}

/// Adds to `sums[p][t]` the product of some blocks of panel `p` with the same columns of row `t`; `x` is `[group][T]`.
#[inline(always)]
fn accumulate<S: Int8Simd, L: BlockLayout, const P: usize, const T: usize>(
    s: S,
    weights: [&[u8]; P],
    x: &[ActivationGroup],
    prefetch: Option<usize>,
    sums: &mut [[[f32; LANES]; T]; P],
) {
    let f = s.float();
    let groups = L::COLUMNS / GROUP_SIZE;
    let bytes = if L::IS_DECODED { decoded::BYTES } else { L::PANEL_BYTES };
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
                let block = &weights[p][index * bytes..][..bytes];
                if !L::IS_DECODED
                    && let Some(distance) = prefetch
                {
                    let bytes = L::PANEL_BYTES / groups;
                    prefetch_after(s, &block[group * bytes..][..bytes], distance);
                }
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

/// Adds to `sums[t]` the product of one group of 32 columns with the same columns of row `t`.
#[inline(always)]
fn add_group<S: Int8Simd, L: BlockLayout, const T: usize>(
    s: S,
    block: &[u8],
    group: usize,
    x: &[ActivationGroup; T],
    sums: &mut [<S::Float as Simd>::V; T],
) {
    let f = s.float();
    let offset = if L::SIGNED { S::SIGNED_OFFSET } else { L::ZERO_POINT };
    let (mut first, mut second) = ([s.splat(0); T], [s.splat(0); T]);
    if L::SCALES_PER_GROUP == 1 {
        for t in 0..T {
            first[t] = s.splat(-offset * (x[t].sums[0] + x[t].sums[1]));
        }
        add_half::<S, L, 0, T>(s, block, group, x, &mut first);
        add_half::<S, L, 1, T>(s, block, group, x, &mut first);
        let scales = L::scales(s, block, group, 0);
        for t in 0..T {
            sums[t] = add_scaled_row(s, scales, &x[t], first[t], sums[t]);
        }
    } else {
        for t in 0..T {
            first[t] = s.splat(-offset * x[t].sums[0]);
            second[t] = s.splat(-offset * x[t].sums[1]);
        }
        add_half::<S, L, 0, T>(s, block, group, x, &mut first);
        add_half::<S, L, 1, T>(s, block, group, x, &mut second);
        let scales = [L::scales(s, block, group, 0), L::scales(s, block, group, 1)];
        for t in 0..T {
            let both = f.fma(scales[1], s.widen(second[t]), f.mul(scales[0], s.widen(first[t])));
            sums[t] = f.fma(both, f.splat(x[t].scale), sums[t]);
        }
    }
    if L::HAS_MINIMUMS && L::SCALES_PER_GROUP == 1 {
        let minimums = L::minimums(s, block, group, 0);
        for t in 0..T {
            sums[t] = f.fma(minimums, f.splat(x[t].negative_sum), sums[t]);
        }
    }
    if L::HAS_MINIMUMS && L::SCALES_PER_GROUP == 2 {
        for half in 0..2 {
            let minimums = L::minimums(s, block, group, half);
            for t in 0..T {
                sums[t] = f.fma(minimums, f.splat(-(x[t].scale * x[t].sums[half] as f32)), sums[t]);
            }
        }
    }
}

/// Returns the integer products of a group with one scale and one row of activations. Quants are at most 15.
#[inline(always)]
pub(super) fn multiply_group<S: Int8Simd, L: BlockLayout>(
    s: S,
    block: &[u8],
    group: usize,
    x: &ActivationGroup,
) -> S::I {
    const { assert!(!L::SIGNED && L::MAX_QUANT <= MAX_SHORT_QUANT / 2) };
    let bytes = L::PANEL_BYTES / (L::COLUMNS / GROUP_SIZE);
    prefetch_after(s, &block[group * bytes..][..bytes], PREFETCH_BYTES);
    let mut shorts = s.no_shorts();
    for quad in 0..QUADS {
        shorts = s.dot_short(shorts, L::unpack_quants::<S, 0>(s, block, group, quad), x.quads[quad]);
    }
    for quad in 0..QUADS {
        shorts = s.dot_short(shorts, L::unpack_quants::<S, 1>(s, block, group, quad), x.quads[QUADS + quad]);
    }
    s.add_shorts(s.splat(-L::ZERO_POINT * (x.sums[0] + x.sums[1])), shorts)
}

/// Adds the integer products of sixteen columns.
#[inline(always)]
fn add_half<S: Int8Simd, L: BlockLayout, const HALF: usize, const T: usize>(
    s: S,
    block: &[u8],
    group: usize,
    x: &[ActivationGroup; T],
    dots: &mut [S::I; T],
) {
    if S::HAS_SHORTS && !L::SIGNED && L::MAX_QUANT <= MAX_SHORT_QUANT {
        let mut shorts = [s.no_shorts(); T];
        for quad in 0..QUADS {
            let weights = L::unpack_quants::<S, HALF>(s, block, group, quad);
            for t in 0..T {
                shorts[t] = s.dot_short(shorts[t], weights, x[t].quads[HALF * QUADS + quad]);
            }
        }
        for t in 0..T {
            dots[t] = s.add_shorts(dots[t], shorts[t]);
        }
        return;
    }
    for quad in 0..QUADS {
        let weights = L::unpack_quants::<S, HALF>(s, block, group, quad);
        for t in 0..T {
            let x = x[t].quads[HALF * QUADS + quad];
            dots[t] = if L::SIGNED { s.dot_signed(dots[t], weights, x) } else { s.dot(dots[t], weights, x) };
        }
    }
}

/// Scales the integer sums of one row of activations and adds them to `sum`.
#[inline(always)]
pub(super) fn add_scaled_row<S: Int8Simd>(
    s: S,
    scales: <S::Float as Simd>::V,
    x: &ActivationGroup,
    dots: S::I,
    sum: <S::Float as Simd>::V,
) -> <S::Float as Simd>::V {
    let f = s.float();
    f.fma(f.mul(scales, f.splat(x.scale)), s.widen(dots), sum)
}
