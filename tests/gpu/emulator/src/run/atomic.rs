//! Atomic operations.

use half::{bf16, f16};

use super::Use;
use super::block::Block;
use super::transfer::{LaneFault, Place};
use super::warp::lanes;
use crate::compile::{Combine, Number, Operation};

impl Block<'_> {
    /// Carries out an atomic operation, one lane after the other.
    pub(super) fn update(&mut self, warp: usize, mask: u32, operation: &Operation) -> Result<(), LaneFault> {
        let Operation::Atomic { space, combine, number, size, out, address, value, swap } = operation else {
            return Ok(());
        };
        for lane in lanes(mask) {
            let place = self.find(warp, lane, *space, *address, *size as usize, Use::UPDATES)?;
            let value = self.warps[warp].get(*value, lane);
            let swap = swap.map(|swap| self.warps[warp].get(swap, lane));
            let change = |old: u64| match swap {
                Some(swap) if old == value & width(*size) => swap,
                Some(_) => old,
                None => combine_values(*combine, *number, *size, old, value),
            };
            let old = match place {
                Place::Global(range, at) => range.update(at, *size, change),
                Place::Shared(at) => {
                    // Warps may use a word by turns if they all use it atomically.
                    let old = self.shared.peek(at, *size as usize);
                    self.shared.poke(at, &change(old).to_le_bytes()[..*size as usize]);
                    old
                }
                Place::Local(_) => return Err((Some(lane), "an atomic operation on local memory".into())),
            };
            if let Some(out) = out {
                self.warps[warp].set(*out, lane, old);
            }
        }
        Ok(())
    }
}

fn width(size: u32) -> u64 {
    u64::MAX >> (64 - 8 * size)
}

/// Combines two values of `size` bytes.
pub(super) fn combine_values(combine: Combine, number: Number, size: u32, old: u64, new: u64) -> u64 {
    let result = match (number, size) {
        (Number::Float, 4) => {
            let sum = f32::from_bits(old as u32) + f32::from_bits(new as u32);
            if combine == Combine::Exchange { new } else { sum.to_bits().into() }
        }
        (Number::Float, _) => {
            let sum = f64::from_bits(old) + f64::from_bits(new);
            if combine == Combine::Exchange { new } else { sum.to_bits() }
        }
        (Number::F16x2, _) => {
            let add = |a: u64, b: u64| u64::from((f16::from_bits(a as u16) + f16::from_bits(b as u16)).to_bits());
            add(old, new) | add(old >> 16, new >> 16) << 16
        }
        (Number::Bf16x2, _) => {
            let add = |a: u64, b: u64| u64::from((bf16::from_bits(a as u16) + bf16::from_bits(b as u16)).to_bits());
            add(old, new) | add(old >> 16, new >> 16) << 16
        }
        (Number::Signed, 4) => combine_signed(combine, (old as i32).into(), (new as i32).into()) as u64,
        (Number::Signed, _) => combine_signed(combine, old as i64, new as i64) as u64,
        (Number::Unsigned, _) => combine_unsigned(combine, old, new & width(size)),
    };
    result & width(size)
}

fn combine_signed(combine: Combine, old: i64, new: i64) -> i64 {
    match combine {
        Combine::Min => old.min(new),
        Combine::Max => old.max(new),
        _ => combine_unsigned(combine, old as u64, new as u64) as i64,
    }
}

fn combine_unsigned(combine: Combine, old: u64, new: u64) -> u64 {
    match combine {
        Combine::Add => old.wrapping_add(new),
        Combine::Min => old.min(new),
        Combine::Max => old.max(new),
        Combine::And => old & new,
        Combine::Or => old | new,
        Combine::Xor => old ^ new,
        Combine::Exchange | Combine::CompareAndSwap => new,
        // A counter that goes from 0 to `new` and around.
        Combine::Increment => {
            if old >= new {
                0
            } else {
                old + 1
            }
        }
        Combine::Decrement => {
            if old == 0 || old > new {
                new
            } else {
                old - 1
            }
        }
    }
}
