//! Weighted sums of rows, which merge the outputs of a token's experts (Shazeer et al. 2017,
//! <https://arxiv.org/abs/1701.06538>).

use candle_core::Tensor;

use crate::context::Context;
use crate::error::{Result, argument};
use crate::shared_slice::SharedSlice;
use crate::simd::{self, Kernel, Simd, map};
use crate::{check, host, plain, rows};

/// Computes `out[t] = Σ_j weights[t · each + j] · x[indices[t · each + j]]`, in the order of j, from `x` `[rows, dim]`.
/// Returns `[tokens, dim]`. There are `each` indices and weights a token.
pub fn mix_rows(ctx: &Context, x: &Tensor, indices: &[u32], weights: &[f32], each: usize) -> Result<Tensor> {
    let (count, dim) = check::rows("x", x)?;
    if each == 0 || !indices.len().is_multiple_of(each) {
        return argument("indices", format!("{} indices are not {each} for each token", indices.len()));
    }
    if weights.len() != indices.len() {
        return argument("weights", format!("{} weights for {} indices", weights.len(), indices.len()));
    }
    if let Some(index) = indices.iter().find(|index| **index as usize >= count) {
        return argument("indices", format!("row {index} is beyond the {count} rows of x"));
    }
    if !ctx.has_kernels() {
        return plain::mix_rows(ctx, x, indices, weights, each);
    }
    let tokens = indices.len() / each;
    let mut out = vec![0.0; tokens * dim];
    let input = host::borrow("x", x)?;
    let x = input.f32()?;
    let shared = SharedSlice::new(&mut out);
    rows::for_each_row_range(ctx, tokens * dim, dim, &|elements| {
        let range = elements.start / dim * each..elements.end / dim * each;
        let (indices, weights) = (&indices[range.clone()], &weights[range]);
        // SAFETY: runs of rows do not overlap.
        let out = unsafe { shared.slice_mut(elements) };
        simd::dispatch(ctx, MixRows { x, dim, indices, weights, each, out });
    });
    host::tensor(out, (tokens, dim))
}

/// Weighted sums of whole tokens.
struct MixRows<'a> {
    x: &'a [f32],
    dim: usize,
    indices: &'a [u32],
    weights: &'a [f32],
    each: usize,
    /// Output, zero at first.
    out: &'a mut [f32],
}

impl Kernel for MixRows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sum = vec![0.0; self.dim];
        for (token, out) in self.out.chunks_exact_mut(self.dim).enumerate() {
            let range = token * self.each..(token + 1) * self.each;
            for (index, weight) in self.indices[range.clone()].iter().zip(&self.weights[range]) {
                let row = &self.x[*index as usize * self.dim..][..self.dim];
                let weight = s.splat(*weight);
                sum.copy_from_slice(out);
                map::map(s, [row, &sum], [&mut *out], |[x, sum]| [s.fma(weight, x, sum)]);
            }
        }
    }
}
