//! A coded matrix on the CPU: panels of sixteen rows, k-major, like those of floating-point weights.

use std::ops::Range;

use super::{Code, CodedWeight};
use crate::buffer::Buffer;
use crate::context::Context;
use crate::error::Result;
use crate::matrix::format::F32;
use crate::matrix::gemm::{K_BLOCK, PanelSource};
use crate::shared_slice::SharedSlice;
use crate::simd::{LANES, Simd};

/// Panels per task while packing.
const PANELS_PER_TASK: usize = 4;

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
    /// Returns `(code - zero) · scale` with the zeros and scales of a group.
    #[inline(always)]
    fn scale<S: Simd>(&self, s: S, code: S::V, group: u32) -> S::V {
        let group = group as usize;
        let code = match self.zeros {
            Some(zeros) => s.sub(code, s.load(&zeros[group])),
            None => code,
        };
        s.mul(code, s.load(&self.scales[group]))
    }
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

/// Units that are widened before they are multiplied.
type Widened = [[f32; LANES]; K_BLOCK];

impl PanelSource for CodedPanels {
    type Format = F32;
    type Scratch = Widened;
    const LONGEST_READ: usize = K_BLOCK;

    fn scratch() -> Widened {
        [[0.0; LANES]; K_BLOCK]
    }
    fn out_features(&self) -> usize {
        self.out_features
    }
    fn bytes(&self) -> usize {
        self.bytes()
    }
    fn num_units(&self) -> usize {
        self.in_features()
    }
    #[inline(always)]
    fn read<'a, S: Simd>(
        &'a self,
        s: S,
        panel: usize,
        columns: Range<usize>,
        scratch: &'a mut Widened,
    ) -> &'a [[f32; LANES]] {
        let panel = self.panel(panel);
        let to = &mut scratch[..columns.len()];
        let groups = &self.group_of[columns.clone()];
        match self.code {
            Code::E4m3 => {
                for ((unit, group), to) in panel.units[columns].iter().zip(groups).zip(&mut *to) {
                    s.store(panel.scale(s, s.widen_e4m3(unit), *group), to);
                }
            }
            Code::Int8 => {
                for ((unit, group), to) in panel.units[columns].iter().zip(groups).zip(&mut *to) {
                    s.store(panel.scale(s, s.widen_i8(unit), *group), to);
                }
            }
            Code::Table(table) => {
                // A read starts at an even column.
                let units = &panel.units[columns.start / 2..columns.end.div_ceil(2)];
                for ((unit, groups), to) in units.iter().zip(groups.chunks(2)).zip(to.chunks_mut(2)) {
                    let [even, odd] = s.look_up_halves(table, unit);
                    s.store(panel.scale(s, even, groups[0]), &mut to[0]);
                    if let (Some(to), Some(group)) = (to.get_mut(1), groups.get(1)) {
                        s.store(panel.scale(s, odd, *group), to);
                    }
                }
            }
        }
        to
    }
}
