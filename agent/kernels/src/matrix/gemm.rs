//! The product `x · wᵀ + bias` with floating-point weights, or weights that are widened to them, on the CPU.
//!
//! Rows of activations are cut into tiles of equal height T and packed `[tile][k][T]`. A task is a run of panels;
//! threads take tasks as they become free. Inside a task, two panels from the two halves of the run are multiplied side
//! by side, so that a thread reads two streams. If there is one tile, the weights stream through once, over all of k.
//! If there are several tiles, k is cut into blocks whose weights stay in the first-level cache while every tile of a
//! row block passes, and the sums wait in a scratch buffer in between. Each output is the same chain of fused
//! multiply-adds in all these cases.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::DType;

use super::format::{Bf16, F16, F32, Format};
use super::output::OutputColumns;
use super::panels::Panels;
use super::tile::PanelUnits;
use super::{tile, tiling};
use crate::context::Context;
use crate::isa::Isa;
use crate::shared_slice::SharedSlice;
use crate::simd::{self, Kernel, LANES, Simd};

/// k's per block if there are several tiles: two panels of f32 take half of a 48 KiB cache.
pub(super) const K_BLOCK: usize = 192;
/// Tiles per row block. Their activations stay in the second-level cache.
const TILES_PER_ROW_BLOCK: usize = 8;
/// Weight bytes per task: enough for long streams, and few enough to balance the threads.
const TASK_BYTES: usize = 256 << 10;

/// Panels that a product reads.
pub(super) trait PanelSource: Sync {
    type Format: Format;
    /// Memory for units that are not stored as they are multiplied.
    type Scratch;
    /// Most k's of one read.
    const LONGEST_READ: usize;
    /// True if [`PanelSource::accumulate`] multiplies a single tile.
    const WIDENS_IN_REGISTERS: bool = false;

    fn scratch() -> Self::Scratch;
    fn out_features(&self) -> usize;
    fn bytes(&self) -> usize;
    /// Returns the number of units in a panel.
    fn num_units(&self) -> usize;
    /// Returns some units of a panel. The first is a multiple of two.
    fn read<'a, S: Simd>(
        &'a self,
        s: S,
        panel: usize,
        units: Range<usize>,
        scratch: &'a mut Self::Scratch,
    ) -> &'a [<Self::Format as Format>::Unit];

    /// Does for whole panels what [`tile::accumulate`] does, without a scratch.
    #[inline(always)]
    fn accumulate<S: Simd, const P: usize, const T: usize>(
        &self,
        _: S,
        _panels: [usize; P],
        _x: &[f32],
        _sums: &mut [[S::V; T]; P],
    ) {
    }

    fn num_panels(&self) -> usize {
        self.out_features().div_ceil(LANES)
    }
}

/// Panels of floating-point weights of one format.
struct FloatPanels<'a, F: Format> {
    units: &'a [F::Unit],
    panels: &'a Panels,
}

impl<'a, F: Format> FloatPanels<'a, F> {
    fn new(panels: &'a Panels) -> Self {
        Self { units: panels.units::<F>(), panels }
    }
}

impl<F: Format> PanelSource for FloatPanels<'_, F> {
    type Format = F;
    type Scratch = ();
    const LONGEST_READ: usize = usize::MAX;

    fn scratch() {}
    fn out_features(&self) -> usize {
        self.panels.out_features()
    }
    fn bytes(&self) -> usize {
        self.panels.bytes()
    }
    fn num_units(&self) -> usize {
        F::units(self.panels.in_features())
    }
    #[inline(always)]
    fn read<'a, S: Simd>(&'a self, _: S, panel: usize, units: Range<usize>, (): &'a mut ()) -> &'a [F::Unit] {
        let first = panel * F::units(self.panels.in_features());
        &self.units[first + units.start..first + units.end]
    }
}

/// Multiplies the rows `x` by the panels `w` and writes the result to `output`.
pub(super) fn multiply(ctx: &Context, x: &[f32], w: &Panels, output: &OutputColumns<'_>) {
    let columns = w.in_features();
    match w.dtype() {
        DType::BF16 => multiply_source(ctx, x, columns, &FloatPanels::<Bf16>::new(w), output),
        DType::F16 => multiply_source(ctx, x, columns, &FloatPanels::<F16>::new(w), output),
        _ => multiply_source(ctx, x, columns, &FloatPanels::<F32>::new(w), output),
    }
}

/// Multiplies the rows `x` of `columns` numbers by the panels `w` and writes the result to `output`.
pub(super) fn multiply_source(
    ctx: &Context,
    x: &[f32],
    columns: usize,
    w: &impl PanelSource,
    output: &OutputColumns<'_>,
) {
    let heights: &[usize] = match ctx.isa() {
        Isa::Avx512 => &[1, 2, 4, 8, 12],
        Isa::Avx2 => &[1, 2, 4, 6],
        Isa::Portable => &[1, 2, 4],
    };
    let height = tiling::tile_height(heights, output.tokens);
    let depth = columns.next_multiple_of(2);
    let packed = pack_activations(ctx, x, columns, depth, height);
    Gemm { w, x: &packed, depth, output }.run_with_height(ctx, height);
}

/// Packs `x` `[rows, columns]` as `[tile][depth][height]`, with zeros where there is no row or column.
fn pack_activations<'a>(ctx: &Context, x: &'a [f32], columns: usize, depth: usize, height: usize) -> Cow<'a, [f32]> {
    /// k's per task.
    const COLUMNS_PER_TASK: usize = 512;
    let rows = x.len().checked_div(columns).unwrap_or(0);
    if rows <= 1 && depth == columns && height == 1 {
        return Cow::Borrowed(x);
    }
    let tiles = rows.div_ceil(height);
    let mut packed = vec![0.0; tiles * depth * height];
    let shared = SharedSlice::new(&mut packed);
    ctx.pool().for_each_chunk(columns, COLUMNS_PER_TASK, &|range| {
        for (tile, rows) in x.chunks(columns * height).enumerate() {
            let part = tile * depth + range.start..tile * depth + range.end;
            // SAFETY: parts differ by tile, and ranges of k do not overlap.
            let part = unsafe { shared.slice_mut(part.start * height..part.end * height) };
            for (t, row) in rows.chunks_exact(columns).enumerate() {
                let to = part[t..].iter_mut().step_by(height);
                to.zip(&row[range.clone()]).for_each(|(to, from)| *to = *from);
            }
        }
    });
    Cow::Owned(packed)
}

/// A product, shared by all threads.
struct Gemm<'a, W> {
    w: &'a W,
    /// Packed activations `[tile][depth][height]`.
    x: &'a [f32],
    depth: usize,
    output: &'a OutputColumns<'a>,
}

/// A task: a run of panels of a product, multiplied P panels by T rows at a time.
struct GemmTask<'a, W, const P: usize, const T: usize> {
    gemm: &'a Gemm<'a, W>,
    panels: Range<usize>,
}

impl<W: PanelSource> Gemm<'_, W> {
    /// Runs the tasks with tiles of `height` rows. A task takes one panel at a time if two by `height` sums would not
    /// fit in the registers of a narrow instruction set.
    fn run_with_height(&self, ctx: &Context, height: usize) {
        match (height, ctx.isa()) {
            (1, _) => self.run_tasks::<2, 1>(ctx),
            (2, _) => self.run_tasks::<2, 2>(ctx),
            (4, Isa::Avx512) => self.run_tasks::<2, 4>(ctx),
            (4, _) => self.run_tasks::<1, 4>(ctx),
            (6, _) => self.run_tasks::<1, 6>(ctx),
            (8, _) => self.run_tasks::<2, 8>(ctx),
            _ => self.run_tasks::<2, 12>(ctx),
        }
    }

    /// Runs one task for each run of panels.
    fn run_tasks<const P: usize, const T: usize>(&self, ctx: &Context) {
        tiling::for_each_panel_run(ctx, self.w.num_panels(), self.w.bytes(), TASK_BYTES, &|panels| {
            simd::dispatch(ctx, GemmTask::<W, P, T> { gemm: self, panels });
        });
    }
}

impl<W: PanelSource, const P: usize, const T: usize> Kernel for GemmTask<'_, W, P, T> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // The compiler decides this: a shape that its instruction set never gets has no code.
        if P * T > S::ACCUMULATORS {
            return;
        }
        // The streams start evenly apart. The last one is shorter by at most one panel. It takes its last panel again,
        // so this thread writes the same values twice.
        let stream = self.panels.len().div_ceil(P);
        let tiles = self.gemm.output.tokens.div_ceil(T);
        let mut scratch: [W::Scratch; P] = std::array::from_fn(|_| W::scratch());
        for first in (0..tiles).step_by(TILES_PER_ROW_BLOCK) {
            let tiles = first..tiles.min(first + TILES_PER_ROW_BLOCK);
            for step in 0..stream {
                let panel = |p: usize| (self.panels.start + p * stream + step).min(self.panels.end - 1);
                self.multiply_panels(s, std::array::from_fn(panel), tiles.clone(), &mut scratch);
            }
        }
    }
}

impl<W: PanelSource, const P: usize, const T: usize> GemmTask<'_, W, P, T> {
    /// Multiplies P whole panels by some tiles.
    #[inline(always)]
    fn multiply_panels<S: Simd>(&self, s: S, panels: [usize; P], tiles: Range<usize>, scratch: &mut [W::Scratch; P]) {
        let (gemm, step) = (self.gemm, <W::Format as Format>::STEP);
        let length = gemm.w.num_units();
        let longest = if tiles.len() == 1 { W::LONGEST_READ } else { W::LONGEST_READ.min(K_BLOCK) };
        let block = (longest / step).min(length).max(1);
        let mut sums = [[[s.splat(0.0); T]; P]; TILES_PER_ROW_BLOCK];
        let is_direct = W::WIDENS_IN_REGISTERS && tiles.len() == 1;
        if is_direct {
            gemm.w.accumulate(s, panels, &gemm.x[tiles.start * gemm.depth * T..], &mut sums[0]);
        }
        for first in (0..if is_direct { 0 } else { length }).step_by(block) {
            let mut weights: PanelUnits<'_, W::Format, P> = [&[]; P];
            for ((weights, panel), scratch) in weights.iter_mut().zip(panels).zip(&mut *scratch) {
                *weights = gemm.w.read(s, panel, first..length.min(first + block), scratch);
            }
            for (tile, sums) in tiles.clone().zip(&mut sums) {
                let x = &gemm.x[(tile * gemm.depth + first * step) * T..];
                tile::accumulate::<S, W::Format, P, T>(s, weights, x, sums);
            }
        }
        for (tile, sums) in tiles.zip(&sums) {
            for (panel, sums) in panels.into_iter().zip(sums) {
                let mut lanes = [[0.0; LANES]; T];
                sums.iter().zip(&mut lanes).for_each(|(sum, lanes)| s.store(*sum, lanes));
                gemm.output.write(panel, gemm.w.out_features(), tile * T, &mut lanes);
            }
        }
    }
}
