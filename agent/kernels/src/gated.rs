//! The gated activations of feed-forward layers (SwiGLU and GEGLU, Shazeer 2020,
//! <https://arxiv.org/abs/2002.05202>).

use candle_core::Tensor;

use crate::activation::Activation;
use crate::context::Context;
use crate::error::Result;
use crate::shared_slice::SharedSlice;
use crate::simd::{self, Kernel, Simd, map, math};
use crate::{check, host, plain, rows};

/// Computes `activation(gate) · up`: `gate_up` is `[tokens, 2 · inter]`, gate first; returns `[tokens, inter]`.
pub fn gated_mul(ctx: &Context, gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    let (tokens, width) = check::rows("gate_up", gate_up)?;
    if width % 2 != 0 {
        return check::wrong_shape("gate_up", "[tokens, 2 * inter]".to_owned(), gate_up);
    }
    if !ctx.has_kernels() {
        return plain::gated_mul(ctx, gate_up, activation);
    }
    let inter = width / 2;
    let mut out = vec![0.0; tokens * inter];
    let input = host::borrow("gate_up", gate_up)?;
    let input = input.f32()?;
    let shared = SharedSlice::new(&mut out);
    rows::for_each_row_range(ctx, tokens * inter, inter, &|elements| {
        let gate_up = &input[2 * elements.start..2 * elements.end];
        // SAFETY: runs of rows do not overlap.
        let out = unsafe { shared.slice_mut(elements) };
        simd::dispatch(ctx, GatedMul { gate_up, inter, activation, out });
    });
    host::tensor(out, (tokens, inter))
}

/// Gated activation of whole rows.
struct GatedMul<'a> {
    gate_up: &'a [f32],
    inter: usize,
    activation: Activation,
    out: &'a mut [f32],
}

impl Kernel for GatedMul<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.gate_up.chunks_exact(2 * self.inter);
        for (row, out) in rows.zip(self.out.chunks_exact_mut(self.inter)) {
            let (gate, up) = row.split_at(self.inter);
            match self.activation {
                Activation::Silu => map::map(s, [gate, up], [out], |[gate, up]| [s.mul(math::silu(s, gate), up)]),
                Activation::GeluTanh => {
                    map::map(s, [gate, up], [out], |[gate, up]| [s.mul(math::gelu_tanh(s, gate), up)]);
                }
            }
        }
    }
}
