//! Rotary position embedding, half-split (NeoX) style (Su et al. 2021, <https://arxiv.org/abs/2104.09864>).

use candle_core::Tensor;

use crate::context::Context;
use crate::error::{Result, argument};
use crate::rotary_table::RotaryTable;
use crate::shared_slice::SharedSlice;
use crate::simd::{self, Kernel, Simd, map};
use crate::{check, host, plain, rows};

/// Rotates each head of `x` `[tokens, heads, head_dim]` by its token's position. `positions` holds one position per
/// token.
pub fn rotary(ctx: &Context, x: &Tensor, table: &RotaryTable, positions: &[u32]) -> Result<Tensor> {
    let (tokens, heads, head_dim) = check::heads("x", x)?;
    if table.rotary_dim() > head_dim {
        return check::wrong_shape("x", format!("[.., at least {}]", table.rotary_dim()), x);
    }
    if positions.len() != tokens {
        return argument("positions", format!("{} positions for {tokens} tokens", positions.len()));
    }
    if let Some(position) = positions.iter().find(|p| **p as usize >= table.max_position()) {
        let limit = table.max_position();
        return argument("positions", format!("position {position} is beyond the table's {limit} positions"));
    }
    check::same_device("rotary table", table.cos(), x.device())?;
    if !ctx.has_kernels() {
        return plain::rotary(ctx, x, table, positions);
    }
    let mut out = vec![0.0; x.elem_count()];
    let input = host::borrow("x", x)?;
    let (cos, sin) = (host::borrow("rotary cos", table.cos())?, host::borrow("rotary sin", table.sin())?);
    let (input, cos, sin) = (input.f32()?, cos.f32()?, sin.f32()?);
    let (half, width) = (table.rotary_dim() / 2, heads * head_dim);
    let shared = SharedSlice::new(&mut out);
    rows::for_each_row_range(ctx, input.len(), width, &|elements| {
        let positions = &positions[elements.start / width..elements.end / width];
        let x = &input[elements.clone()];
        // SAFETY: runs of rows do not overlap.
        let out = unsafe { shared.slice_mut(elements) };
        simd::dispatch(ctx, RotateHeads { x, cos, sin, half, head_dim, positions, out });
    });
    host::tensor(out, x.shape())
}

/// Rotation of the heads of whole tokens.
struct RotateHeads<'a> {
    x: &'a [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
    head_dim: usize,
    positions: &'a [u32],
    out: &'a mut [f32],
}

impl Kernel for RotateHeads<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (half, width) = (self.half, self.x.len() / self.positions.len().max(1));
        for (token, position) in self.positions.iter().enumerate() {
            let angles = *position as usize * half..(*position as usize + 1) * half;
            let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
            let token = token * width..(token + 1) * width;
            let heads = self.x[token.clone()].chunks_exact(self.head_dim);
            for (x, out) in heads.zip(self.out[token].chunks_exact_mut(self.head_dim)) {
                let (low, rest) = x.split_at(half);
                let (high, rest) = rest.split_at(half);
                let (out_low, out_rest) = out.split_at_mut(half);
                let (out_high, out_rest) = out_rest.split_at_mut(half);
                map::map(s, [low, high, cos, sin], [out_low, out_high], |[low, high, cos, sin]| {
                    let rotated_low = s.sub(s.mul(low, cos), s.mul(high, sin));
                    [rotated_low, s.add(s.mul(high, cos), s.mul(low, sin))]
                });
                out_rest.copy_from_slice(rest);
            }
        }
    }
}
