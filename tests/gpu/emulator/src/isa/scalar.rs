//! Numbers as bits of registers, and back.

use half::{bf16, f16};

pub(super) fn f32_of(bits: u32) -> f32 {
    f32::from_bits(bits)
}

pub(super) fn f64_of(bits: u64) -> f64 {
    f64::from_bits(bits)
}

pub(super) fn f16_of(bits: u32) -> f32 {
    f16::from_bits(bits as u16).to_f32()
}

pub(super) fn bf16_of(bits: u32) -> f32 {
    bf16::from_bits(bits as u16).to_f32()
}

/// Rounds to the nearest `f16`, ties to even.
pub(super) fn f16_bits(value: f64) -> u32 {
    f16::from_f32(to_odd(value)).to_bits().into()
}

/// Rounds to the nearest `bf16`, ties to even.
pub(super) fn bf16_bits(value: f64) -> u32 {
    bf16::from_f32(to_odd(value)).to_bits().into()
}

/// Cuts a number off, and makes its last bit odd if something was cut off. Rounded once more to a shorter type, it gives what
/// one rounding would have given.
fn to_odd(value: f64) -> f32 {
    let cut = toward_zero(value);
    if f64::from(cut) == value || !cut.is_finite() { cut } else { f32::from_bits(cut.to_bits() | 1) }
}

/// Replaces a subnormal number by zero of the same sign (`.ftz`).
pub(super) fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0.0_f32.copysign(value) } else { value }
}

/// Clamps to 0 … 1, as bits. A NaN becomes 0.
pub(super) fn saturate(value: f32) -> u32 {
    if value > 0.0 { value.min(1.0).to_bits() } else { 0 }
}

/// Rounds toward zero.
pub(super) fn toward_zero(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest).abs() <= value.abs() {
        nearest
    } else if nearest > 0.0 {
        nearest.next_down()
    } else {
        nearest.next_up()
    }
}

/// Rounds down.
pub(super) fn downward(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) > value { nearest.next_down() } else { nearest }
}

/// Rounds up.
pub(super) fn upward(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) < value { nearest.next_up() } else { nearest }
}
