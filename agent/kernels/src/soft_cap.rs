//! Soft caps on logits (Bello et al. 2016, <https://arxiv.org/abs/1611.09940>; Gemma 2).

use candle_core::Tensor;

use crate::context::Context;
use crate::error::{Result, argument};
use crate::shared_slice::SharedSlice;
use crate::simd::{self, Kernel, Simd, map, math};
use crate::{check, host, plain, rows};

/// Computes `cap · tanh(x / cap)` of every element of `x` `[rows, columns]`. `cap` is a finite number above 0.
pub fn soft_cap(ctx: &Context, x: &Tensor, cap: f32) -> Result<Tensor> {
    let (_, columns) = check::rows("x", x)?;
    if !(cap > 0.0 && cap.is_finite()) {
        return argument("soft cap", format!("{cap} is not a positive number"));
    }
    if !ctx.has_kernels() {
        return plain::soft_cap(ctx, x, cap);
    }
    let mut out = vec![0.0; x.elem_count()];
    let input = host::borrow("x", x)?;
    let input = input.f32()?;
    let shared = SharedSlice::new(&mut out);
    rows::for_each_row_range(ctx, input.len(), columns, &|elements| {
        let x = &input[elements.clone()];
        // SAFETY: runs of rows do not overlap.
        let out = unsafe { shared.slice_mut(elements) };
        simd::dispatch(ctx, SoftCap { x, cap, out });
    });
    host::tensor(out, x.shape())
}

/// Soft cap of any run of elements.
struct SoftCap<'a> {
    x: &'a [f32],
    cap: f32,
    out: &'a mut [f32],
}

impl Kernel for SoftCap<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cap = s.splat(self.cap);
        map::map(s, [self.x], [self.out], |[x]| [s.mul(math::tanh(s, s.div(x, cap)), cap)]);
    }
}
