//! A coded matrix on the CPU: panels of sixteen rows, k-major, like those of floating-point weights.

use std::ops::Range;

use super::{Code, CodedWeight};
use crate::buffer::Buffer;
use crate::context::Context;
use crate::error::Result;
use crate::matrix::format::F32;
use crate::matrix::gemm::{self, K_BLOCK, PanelSource};
use crate::matrix::output::OutputColumns;
use crate::matrix::tile::PREFETCH_BYTES;
use crate::shared_slice::SharedSlice;
use crate::simd::{E4M3_FACTOR, LANES, Simd};

/// Panels per task while packing.
const PANELS_PER_TASK: usize = 4;
/// Columns whose scales are loaded once, if they are in one group.
const STRIP: usize = 8;

/// Matrix whose panel `p` holds the rows `16 p..16 p + 16`. A unit of a panel is sixteen bytes: one column of eight bits,
/// or an even column in the low halves and the next in the high halves. Rows beyond the matrix have the scale zero.
#[derive(Debug)]
pub(crate) struct CodedPanels {
    bits: Buffer,
    /// Scales `[panels, groups]` of sixteen rows.
    scales: Buffer,
    /// Zeros like the scales; empty if all are 0.
    zeros: Buffer,
    group_of: Vec<u32>,
    num_groups: usize,
    out_features: usize,
    /// True if each run of [`STRIP`] columns is in one group, all zeros are 0, and scales have room for any factor of a widening.
    has_strips: bool,
    code: Code,
    format: &'static str,
}

impl CodedPanels {
    /// Packs a weight.
    pub(crate) fn pack(ctx: &Context, weight: &CodedWeight<'_>) -> Result<CodedPanels> {
        weight.check()?;
        let num_panels = weight.out_features.div_ceil(LANES);
        let mut bits = Buffer::zeroed(num_panels * panel_bytes(weight.code, weight.in_features))?;
        pack_bits(ctx, weight, bits.as_mut_slice());
        Ok(CodedPanels {
            bits,
            scales: pack_groups(weight, weight.scales)?,
            zeros: weight.zeros.map_or_else(|| Buffer::zeroed(0), |zeros| pack_groups(weight, zeros))?,
            group_of: weight.group_of.to_vec(),
            num_groups: weight.num_groups(),
            out_features: weight.out_features,
            has_strips: has_strips(weight),
            code: weight.code,
            format: weight.format,
        })
    }

    pub(crate) fn format(&self) -> &'static str {
        self.format
    }

    pub(crate) fn in_features(&self) -> usize {
        self.group_of.len()
    }

    /// Returns the bytes in memory, with padding.
    pub(crate) fn bytes(&self) -> usize {
        self.bits.bytes() + self.scales.bytes() + self.zeros.bytes() + size_of_val(self.group_of.as_slice())
    }

    /// Decodes row `row` to f32, into `to` (`in_features` long).
    pub(crate) fn read_row(&self, row: usize, to: &mut [f32]) {
        let (panel, lane) = (row / LANES, row % LANES);
        let Panel { units, scales, zeros } = self.panel(panel);
        for (k, (to, group)) in to.iter_mut().zip(&self.group_of).enumerate() {
            let group = *group as usize;
            let bits = match self.code.per_byte() {
                1 => units[k][lane],
                _ => units[k / 2][lane] >> (k % 2 * 4),
            };
            let zero = zeros.map_or(0.0, |zeros| zeros[group][lane]);
            *to = (self.code.decode(bits) - zero) * scales[group][lane];
        }
    }

    #[inline(always)]
    fn panel(&self, panel: usize) -> Panel<'_> {
        let units = panel_bytes(self.code, self.in_features()) / LANES;
        let groups = panel * self.num_groups..(panel + 1) * self.num_groups;
        Panel {
            units: &self.bits.as_slice()[panel * units..(panel + 1) * units],
            zeros: if self.zeros.bytes() > 0 { Some(&self.zeros.as_slice()[groups.clone()]) } else { None },
            scales: &self.scales.as_slice()[groups],
        }
    }
}

/// One panel, with the scales and zeros of each group.
#[derive(Clone, Copy)]
struct Panel<'a> {
    units: &'a [[u8; LANES]],
    scales: &'a [[f32; LANES]],
    zeros: Option<&'a [[f32; LANES]]>,
}

impl Panel<'_> {
    /// Returns `(code - zero) · scale` with the zeros and scales of a group. `factor` was left out of the code.
    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, code: S::V, factor: f32, group: u32) -> S::V {
        let group = group as usize;
        let code = if factor == 1.0 { code } else { s.mul(code, s.splat(factor)) };
        let code = match self.zeros {
            Some(zeros) => s.sub(code, s.load(&zeros[group])),
            None => code,
        };
        s.mul(code, s.load(&self.scales[group]))
    }
}

/// Returns true if each run of [`STRIP`] columns is in one group, all zeros are 0, and a factor takes no scale out of range.
fn has_strips(weight: &CodedWeight<'_>) -> bool {
    let is_moderate = |number: &f32| *number == 0.0 || (1e-30..1e30).contains(&number.abs());
    weight.group_of.chunks(STRIP).all(|groups| groups.iter().all(|group| *group == groups[0]))
        && weight.zeros.is_none()
        && weight.scales.iter().all(is_moderate)
}

/// Returns the bytes of one panel.
fn panel_bytes(code: Code, in_features: usize) -> usize {
    in_features.div_ceil(code.per_byte()) * LANES
}

fn pack_bits(ctx: &Context, weight: &CodedWeight<'_>, to: &mut [u8]) {
    let (num_panels, length) = (weight.out_features.div_ceil(LANES), panel_bytes(weight.code, weight.in_features));
    let per_byte = weight.code.per_byte();
    let shared = SharedSlice::new(to);
    ctx.pool().for_each_chunk(num_panels, PANELS_PER_TASK, &|range| {
        for panel in range {
            // SAFETY: each panel is one part and is visited once.
            let part = unsafe { shared.slice_mut(panel * length..(panel + 1) * length) };
            let rows = panel * LANES..weight.out_features.min((panel + 1) * LANES);
            for column in 0..weight.in_features {
                let unit = &mut part[column / per_byte * LANES..][..LANES];
                for (row, byte) in rows.clone().zip(unit) {
                    *byte |= weight.bits_at(row, column) << (column % per_byte * 4);
                }
            }
        }
    });
}

/// Packs numbers `[groups, rows]` as `[panels, groups]` of sixteen rows.
fn pack_groups(weight: &CodedWeight<'_>, numbers: &[f32]) -> Result<Buffer> {
    let (rows, groups) = (weight.out_features, weight.num_groups());
    let mut buffer = Buffer::zeroed(rows.div_ceil(LANES) * groups * size_of::<[f32; LANES]>())?;
    let lanes: &mut [[f32; LANES]] = buffer.as_mut_slice();
    for (group, numbers) in numbers.chunks_exact(rows.max(1)).enumerate() {
        for (panel, numbers) in numbers.chunks(LANES).enumerate() {
            lanes[panel * groups + group][..numbers.len()].copy_from_slice(numbers);
        }
    }
    Ok(buffer)
}

/// Widening of one code.
trait Widening: Copy + Sync {
    /// Weights of a byte.
    const PER_BYTE: usize;
    /// Power of two that [`Widening::widen`] leaves out of each number.
    const FACTOR: f32 = 1.0;

    /// Widens the sixteen bytes of a unit to one vector per column. Only the first `PER_BYTE` vectors have a meaning.
    fn widen<S: Simd>(self, s: S, unit: &[u8; LANES]) -> [S::V; 2];
}

#[derive(Clone, Copy)]
struct E4m3;

#[derive(Clone, Copy)]
struct Int8;

#[derive(Clone, Copy)]
struct Table(&'static [f32; LANES]);

impl Widening for E4m3 {
    const PER_BYTE: usize = 1;
    const FACTOR: f32 = E4M3_FACTOR;

    #[inline(always)]
    fn widen<S: Simd>(self, s: S, unit: &[u8; LANES]) -> [S::V; 2] {
        [s.widen_small_e4m3(unit); 2]
    }
}

impl Widening for Int8 {
    const PER_BYTE: usize = 1;

    #[inline(always)]
    fn widen<S: Simd>(self, s: S, unit: &[u8; LANES]) -> [S::V; 2] {
        [s.widen_i8(unit); 2]
    }
}

impl Widening for Table {
    const PER_BYTE: usize = 2;

    #[inline(always)]
    fn widen<S: Simd>(self, s: S, unit: &[u8; LANES]) -> [S::V; 2] {
        s.look_up_halves(self.0, unit)
    }
}

/// Multiplies the rows `x` by the panels `w` and writes the result to `output`.
pub(in crate::matrix) fn multiply(ctx: &Context, x: &[f32], w: &CodedPanels, output: &OutputColumns<'_>) {
    let columns = w.in_features();
    match w.code {
        Code::E4m3 => gemm::multiply_source(ctx, x, columns, &Source { panels: w, widening: E4m3 }, output),
        Code::Int8 => gemm::multiply_source(ctx, x, columns, &Source { panels: w, widening: Int8 }, output),
        Code::Table(table) => {
            gemm::multiply_source(ctx, x, columns, &Source { panels: w, widening: Table(table) }, output);
        }
    }
}

/// Panels of one code.
struct Source<'a, W> {
    panels: &'a CodedPanels,
    widening: W,
}

/// Units that are widened before they are multiplied.
type Widened = [[f32; LANES]; K_BLOCK];

impl<W: Widening> PanelSource for Source<'_, W> {
    type Format = F32;
    type Scratch = Widened;
    const LONGEST_READ: usize = K_BLOCK;
    const WIDENS_IN_REGISTERS: bool = true;

    fn scratch() -> Widened {
        [[0.0; LANES]; K_BLOCK]
    }
    fn out_features(&self) -> usize {
        self.panels.out_features
    }
    fn bytes(&self) -> usize {
        self.panels.bytes()
    }
    fn num_units(&self) -> usize {
        self.panels.in_features()
    }
    #[inline(always)]
    fn read<'a, S: Simd>(
        &'a self,
        s: S,
        panel: usize,
        columns: Range<usize>,
        scratch: &'a mut Widened,
    ) -> &'a [[f32; LANES]] {
        let panel = self.panels.panel(panel);
        let to = &mut scratch[..columns.len()];
        let groups = &self.panels.group_of[columns.clone()];
        // A read starts at an even column.
        let units = &panel.units[columns.start / W::PER_BYTE..columns.end.div_ceil(W::PER_BYTE)];
        for ((unit, groups), to) in units.iter().zip(groups.chunks(W::PER_BYTE)).zip(to.chunks_mut(W::PER_BYTE)) {
            let codes = self.widening.widen(s, unit);
            for (i, (group, to)) in groups.iter().zip(to).enumerate() {
                s.store(panel.scale(s, codes[i], W::FACTOR, *group), to);
            }
        }
        to
    }
    #[inline(always)]
    fn accumulate<S: Simd, const P: usize, const T: usize>(
        &self,
        s: S,
        panels: [usize; P],
        x: &[f32],
        sums: &mut [[S::V; T]; P],
    ) {
        let mut sources = [self.panels.panel(panels[0]); P];
        for p in 1..P {
            sources[p] = self.panels.panel(panels[p]);
        }
        let (x, _) = x.as_chunks::<T>();
        let mut local = *sums;
        let groups = &self.panels.group_of;
        // A factor moves from the codes to the scales: exactly, as it is a power of two. Without one, a scale is loaded as
        // fast for each column.
        let strips = if W::FACTOR != 1.0 && self.panels.has_strips { groups.len() / STRIP } else { 0 };
        let strip_units = STRIP / W::PER_BYTE;
        for strip in 0..strips {
            let group = groups[strip * STRIP] as usize;
            let mut scales = [s.splat(0.0); P];
            let mut units: [&[[u8; LANES]]; P] = [&[]; P];
            for p in 0..P {
                units[p] = &sources[p].units[strip * strip_units..(strip + 1) * strip_units];
                (0..strip_units).step_by(4).for_each(|unit| s.prefetch(&units[p][unit], PREFETCH_BYTES));
                scales[p] = s.mul(s.load(&sources[p].scales[group]), s.splat(W::FACTOR));
            }
            let x = &x[strip * STRIP..(strip + 1) * STRIP];
            for (unit, x) in x.chunks_exact(W::PER_BYTE).enumerate() {
                let mut weights = [[s.splat(0.0); 2]; P];
                for p in 0..P {
                    weights[p] = self.widening.widen(s, &units[p][unit]);
                }
                for (i, x) in x.iter().enumerate() {
                    for p in 0..P {
                        let weight = s.mul(weights[p][i], scales[p]);
                        for t in 0..T {
                            local[p][t] = s.fma(weight, s.splat(x[t]), local[p][t]);
                        }
                    }
                }
            }
        }
        let first = strips * STRIP;
        let rest = groups[first..].chunks(W::PER_BYTE).zip(x[first..].chunks(W::PER_BYTE));
        for (unit, (groups, x)) in (first / W::PER_BYTE..).zip(rest) {
            let mut codes = [[s.splat(0.0); 2]; P];
            for p in 0..P {
                let unit = &sources[p].units[unit];
                s.prefetch(unit, PREFETCH_BYTES);
                codes[p] = self.widening.widen(s, unit);
            }
            for (i, (group, x)) in groups.iter().zip(x).enumerate() {
                for p in 0..P {
                    let weights = sources[p].scale(s, codes[p][i], W::FACTOR, *group);
                    for t in 0..T {
                        local[p][t] = s.fma(weights, s.splat(x[t]), local[p][t]);
                    }
                }
            }
        }
        *sums = local;
    }
}
