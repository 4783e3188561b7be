//! Sums over the ranks, in rank order, in blocks that stay in the first-level cache.
//!
//! The order is part of the contract: each element is `((a0 + a1) + a2) + …`, so every rank and every algorithm gets
//! the same bits. bf16 and f16 are summed in f32 and rounded once. Integers wrap.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::dtype::Dtype;

/// Elements summed at a time. They are 4 KiB of f32, so accumulator and operand stay in the first-level cache.
const BLOCK: usize = 1024;

/// Replaces `own`, which is the operand of rank `rank`, by the sum over the ranks. `operand_of(r)` returns the operand
/// of another rank `r`. It is as long as `own` and aligned for `dtype`.
pub(crate) fn sum_in_rank_order<'a>(
    dtype: Dtype,
    rank: usize,
    world_size: usize,
    own: &mut [u8],
    operand_of: impl Fn(usize) -> &'a [u8],
) {
    match dtype {
        Dtype::F32 => sum_typed::<f32>(rank, world_size, own, operand_of),
        Dtype::Bf16 => sum_typed::<bf16>(rank, world_size, own, operand_of),
        Dtype::F16 => sum_typed::<f16>(rank, world_size, own, operand_of),
        Dtype::I32 => sum_typed::<i32>(rank, world_size, own, operand_of),
        Dtype::U32 => sum_typed::<u32>(rank, world_size, own, operand_of),
    }
}

fn sum_typed<'a, T: Summand>(rank: usize, world_size: usize, own: &mut [u8], operand_of: impl Fn(usize) -> &'a [u8]) {
    let own: &mut [T] = bytemuck::cast_slice_mut(own);
    if world_size == 2 {
        return T::add_pair(rank == 0, own, bytemuck::cast_slice(operand_of(1 - rank)));
    }
    let mut sum = [T::Sum::default(); BLOCK];
    for start in (0..own.len()).step_by(BLOCK) {
        let end = own.len().min(start + BLOCK);
        let sum = &mut sum[..end - start];
        for r in 0..world_size {
            let operand =
                if r == rank { &own[start..end] } else { &bytemuck::cast_slice::<u8, T>(operand_of(r))[start..end] };
            if r == 0 { T::begin(sum, operand) } else { T::add(sum, operand) }
        }
        T::finish(sum, &mut own[start..end]);
    }
}

/// Element type, with the type in which its sums are taken.
trait Summand: bytemuck::Pod {
    type Sum: Copy + Default;

    /// Sets `sum` to the first operand.
    fn begin(sum: &mut [Self::Sum], operand: &[Self]);

    /// Adds the next operand to `sum`.
    fn add(sum: &mut [Self::Sum], operand: &[Self]);

    /// Writes `sum` to `out`, rounded to the element type.
    fn finish(sum: &[Self::Sum], out: &mut [Self]);

    /// Sums the operands of two ranks without a block in between. `own` is the first operand if `own_first` is set.
    fn add_pair(own_first: bool, own: &mut [Self], peer: &[Self]);
}

macro_rules! summed_in_itself {
    ($type:ty, $add:expr) => {
        impl Summand for $type {
            type Sum = $type;
            fn begin(sum: &mut [$type], operand: &[$type]) {
                sum.copy_from_slice(operand);
            }
            fn add(sum: &mut [$type], operand: &[$type]) {
                let add: fn($type, $type) -> $type = $add;
                sum.iter_mut().zip(operand).for_each(|(s, o)| *s = add(*s, *o));
            }
            fn finish(sum: &[$type], out: &mut [$type]) {
                out.copy_from_slice(sum);
            }
            fn add_pair(own_first: bool, own: &mut [$type], peer: &[$type]) {
                let add: fn($type, $type) -> $type = $add;
                if own_first {
                    own.iter_mut().zip(peer).for_each(|(own, peer)| *own = add(*own, *peer));
                } else {
                    own.iter_mut().zip(peer).for_each(|(own, peer)| *own = add(*peer, *own));
                }
            }
        }
    };
}

summed_in_itself!(f32, |a, b| a + b);
summed_in_itself!(i32, i32::wrapping_add);
summed_in_itself!(u32, u32::wrapping_add);

macro_rules! summed_in_f32 {
    ($type:ty) => {
        impl Summand for $type {
            type Sum = f32;
            fn begin(sum: &mut [f32], operand: &[$type]) {
                operand.convert_to_f32_slice(sum);
            }
            fn add(sum: &mut [f32], operand: &[$type]) {
                let mut wide = [0.0; BLOCK];
                let wide = &mut wide[..operand.len()];
                operand.convert_to_f32_slice(wide);
                sum.iter_mut().zip(wide).for_each(|(s, w)| *s += *w);
            }
            fn finish(sum: &[f32], out: &mut [$type]) {
                out.convert_from_f32_slice(sum);
            }
            fn add_pair(own_first: bool, own: &mut [$type], peer: &[$type]) {
                let mut sum = [0.0; BLOCK];
                for (own, peer) in own.chunks_mut(BLOCK).zip(peer.chunks(BLOCK)) {
                    let sum = &mut sum[..own.len()];
                    let (first, second) = if own_first { (&*own, peer) } else { (peer, &*own) };
                    Self::begin(sum, first);
                    Self::add(sum, second);
                    Self::finish(sum, own);
                }
            }
        }
    };
}

summed_in_f32!(bf16);
summed_in_f32!(f16);
