//! A weight matrix in panels on the CPU: packing, and reading it back.

use candle_core::{DType, Tensor};

use super::format::{Bf16, F16, F32, Format};
use crate::buffer::Buffer;
use crate::context::Context;
use crate::error::Result;
use crate::host::{self, HostElements};
use crate::shared_slice::SharedSlice;
use crate::simd::LANES;

/// Panels per task while packing.
const PANELS_PER_TASK: usize = 4;

/// Matrix whose panel `p` holds the rows `16 p..16 p + 16`. Rows and k's beyond the matrix are zero.
#[derive(Debug)]
pub(crate) struct Panels {
    buffer: Buffer,
    out_features: usize,
    in_features: usize,
    dtype: DType,
}

impl Panels {
    /// Packs a checked CPU weight `[out_features, in_features]`.
    pub(super) fn pack(ctx: &Context, weight: &Tensor) -> Result<Panels> {
        let (out_features, in_features) = weight.dims2()?;
        let dtype = weight.dtype();
        let mut panels = Panels { buffer: Buffer::zeroed(0)?, out_features, in_features, dtype };
        let weight = host::borrow("weight", weight)?;
        panels.buffer = match weight.elements()? {
            HostElements::F32(rows) => panels.pack_rows::<F32>(ctx, rows)?,
            HostElements::Bf16(rows) => panels.pack_rows::<Bf16>(ctx, rows)?,
            HostElements::F16(rows) => panels.pack_rows::<F16>(ctx, rows)?,
        };
        Ok(panels)
    }

    fn pack_rows<F: Format>(&self, ctx: &Context, rows: &[F::Element]) -> Result<Buffer> {
        let length = F::units(self.in_features) * F::STEP * LANES;
        let mut buffer = Buffer::zeroed(self.num_panels() * length * size_of::<F::Element>())?;
        if length == 0 {
            return Ok(buffer);
        }
        let shared = SharedSlice::new(buffer.as_mut_slice::<F::Element>());
        ctx.pool().for_each_chunk(self.num_panels(), PANELS_PER_TASK, &|range| {
            for panel in range {
                // SAFETY: each panel is one part and is visited once.
                let panel_part = unsafe { shared.slice_mut(panel * length..(panel + 1) * length) };
                let first = panel * LANES * self.in_features;
                let rows = rows[first..].chunks_exact(self.in_features).take(LANES);
                for (lane, row) in rows.enumerate() {
                    for (k, element) in row.iter().enumerate() {
                        panel_part[F::index(k, lane)] = *element;
                    }
                }
            }
        });
        Ok(buffer)
    }

    /// Returns the number of panels.
    pub(crate) fn num_panels(&self) -> usize {
        self.out_features.div_ceil(LANES)
    }

    /// Returns the units of all panels.
    pub(crate) fn units<F: Format>(&self) -> &[F::Unit] {
        self.buffer.as_slice::<F::Unit>()
    }

    pub(crate) fn out_features(&self) -> usize {
        self.out_features
    }

    pub(crate) fn in_features(&self) -> usize {
        self.in_features
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// Decodes row `row` to f32, into `to` (`in_features` long).
    pub(crate) fn read_row(&self, row: usize, to: &mut [f32]) {
        match self.dtype {
            DType::BF16 => self.read_row_as::<Bf16>(row, to),
            DType::F16 => self.read_row_as::<F16>(row, to),
            _ => self.read_row_as::<F32>(row, to),
        }
    }

    fn read_row_as<F: Format>(&self, row: usize, to: &mut [f32]) {
        let length = F::units(self.in_features) * F::STEP * LANES;
        let elements = self.buffer.as_slice::<F::Element>();
        let panel = &elements[row / LANES * length..][..length];
        for (k, to) in to.iter_mut().enumerate() {
            *to = F::decode(panel[F::index(k, row % LANES)]);
        }
    }

    /// Returns the matrix as a tensor `[out_features, in_features]` in its own dtype.
    pub(crate) fn to_tensor(&self) -> Result<Tensor> {
        let mut elements = vec![0.0; self.out_features * self.in_features];
        if self.in_features > 0 {
            for (row, to) in elements.chunks_exact_mut(self.in_features).enumerate() {
                self.read_row(row, to);
            }
        }
        let wide = host::tensor(elements, (self.out_features, self.in_features))?;
        Ok(wide.to_dtype(self.dtype)?)
    }
}
