//! Where a product's sums go: some columns of rows that threads write disjoint parts of.

use crate::shared::Shared;
use crate::simd::LANES;

/// The columns `first..` of `tokens` rows of `width`.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    pub(super) rows: Shared<'a, f32>,
    pub(super) width: usize,
    /// The column of the matrix's first row.
    pub(super) first: usize,
    pub(super) tokens: usize,
    /// Of all `width` columns.
    pub(super) bias: Option<&'a [f32]>,
}

impl Output<'_> {
    /// Adds the bias to the sums of one panel of a matrix with `out_features` rows, and stores them: one array a token,
    /// from `token` on.
    ///
    /// Panels of one product, and matrices of one output, must be written by one thread each.
    pub(super) fn write(&self, panel: usize, out_features: usize, token: usize, sums: &mut [[f32; LANES]]) {
        let count = LANES.min(out_features - panel * LANES);
        let column = self.first + panel * LANES;
        for (token, lanes) in (token..self.tokens).zip(sums) {
            if let Some(bias) = self.bias {
                let bias = &bias[column..column + count];
                lanes.iter_mut().zip(bias).for_each(|(lane, bias)| *lane += bias);
            }
            let at = token * self.width + column;
            // SAFETY: each panel is in one piece of work and owns its columns of every row.
            let to = unsafe { self.rows.part(at..at + count) };
            to.copy_from_slice(&lanes[..count]);
        }
    }
}
