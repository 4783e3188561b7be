//! The output of a product: some columns of rows. Threads write disjoint parts of the output.

use crate::shared_slice::SharedSlice;
use crate::simd::LANES;

/// The columns `first..` of `tokens` output rows of `width` columns.
#[derive(Clone, Copy)]
pub(super) struct OutputColumns<'a> {
    pub(super) rows: SharedSlice<'a, f32>,
    pub(super) width: usize,
    /// Column of the matrix's first row.
    pub(super) first: usize,
    pub(super) tokens: usize,
    /// Bias of all `width` columns.
    pub(super) bias: Option<&'a [f32]>,
}

impl OutputColumns<'_> {
    /// Adds the bias to the sums of one panel of a matrix with `out_features` rows, and stores them from row `token`
    /// on. `sums` has one array for each token.
    ///
    /// One thread must write each panel of a product, and the matrices of one output must not share columns.
    pub(super) fn write(&self, panel: usize, out_features: usize, token: usize, sums: &mut [[f32; LANES]]) {
        let count = LANES.min(out_features - panel * LANES);
        let column = self.first + panel * LANES;
        for (token, lanes) in (token..self.tokens).zip(sums) {
            if let Some(bias) = self.bias {
                let bias = &bias[column..column + count];
                lanes.iter_mut().zip(bias).for_each(|(lane, bias)| *lane += bias);
            }
            let start = token * self.width + column;
            // SAFETY: each panel is in one task and owns its columns of every row.
            let to = unsafe { self.rows.slice_mut(start..start + count) };
            to.copy_from_slice(&lanes[..count]);
        }
    }
}
