//! Floating-point arithmetic. Approximate instructions (`.approx`) are as exact here as the host's functions: a GPU may
//! differ in the last bits.

use super::scalar::{
    bf16_bits, bf16_of, downward, f16_bits, f16_of, f32_of, f64_of, flush, saturate, toward_zero, upward,
};
use super::{Compute, LANES, Longs, Modifiers, Words, long, word};

/// Makes a computation of two floats, for each type.
macro_rules! float2 {
    ($modifiers:expr, |$a:ident, $b:ident| $result:expr) => {
        match $modifiers.kind() {
            "f32" if $modifiers.has("ftz") => word!(|x, y| {
                let ($a, $b) = (flush(f32_of(x)), flush(f32_of(y)));
                flush($result).to_bits()
            }),
            "f32" => word!(|x, y| {
                let ($a, $b) = (f32_of(x), f32_of(y));
                ($result).to_bits()
            }),
            "f64" => long!(|x, y| {
                let ($a, $b) = (f64_of(x), f64_of(y));
                ($result).to_bits()
            }),
            "f16" => word!(|x, y| {
                let ($a, $b) = (f64::from(f16_of(x)), f64::from(f16_of(y)));
                f16_bits($result)
            }),
            "bf16" => word!(|x, y| {
                let ($a, $b) = (f64::from(bf16_of(x)), f64::from(bf16_of(y)));
                bf16_bits($result)
            }),
            "f16x2" => word!(|x, y| {
                let half = |$a: f64, $b: f64| f16_bits($result);
                half(f16_of(x).into(), f16_of(y).into()) | half(f16_of(x >> 16).into(), f16_of(y >> 16).into()) << 16
            }),
            "bf16x2" => word!(|x, y| {
                let half = |$a: f64, $b: f64| bf16_bits($result);
                half(bf16_of(x).into(), bf16_of(y).into())
                    | half(bf16_of(x >> 16).into(), bf16_of(y >> 16).into()) << 16
            }),
            _ => return None,
        }
    };
}

/// Makes a computation of one float, for each type.
macro_rules! float1 {
    ($modifiers:expr, |$a:ident| $result:expr) => {
        match $modifiers.kind() {
            "f32" if $modifiers.has("ftz") => word!(|x| {
                let $a = flush(f32_of(x));
                flush($result).to_bits()
            }),
            "f32" => word!(|x| {
                let $a = f32_of(x);
                ($result).to_bits()
            }),
            "f64" => long!(|x| {
                let $a = f64_of(x);
                ($result).to_bits()
            }),
            "f16" => word!(|x| {
                let $a = f64::from(f16_of(x));
                f16_bits($result)
            }),
            "bf16" => word!(|x| {
                let $a = f64::from(bf16_of(x));
                bf16_bits($result)
            }),
            _ => return None,
        }
    };
}

/// Returns the computation of an operation on floats.
pub(super) fn decode(operation: &str, modifiers: &Modifiers<'_>) -> Option<Compute> {
    let rounds = ["rz", "rm", "rp"].iter().find(|mode| modifiers.has(mode));
    if let Some(mode) = rounds {
        return decode_rounded(operation, mode, modifiers.kind());
    }
    if modifiers.has("sat") {
        return decode_saturated(operation, modifiers.kind());
    }
    Some(match operation {
        "add" => float2!(modifiers, |a, b| a + b),
        "sub" => float2!(modifiers, |a, b| a - b),
        "mul" => float2!(modifiers, |a, b| a * b),
        "div" => float2!(modifiers, |a, b| a / b),
        "min" if modifiers.has("NaN") => {
            float2!(modifiers, |a, b| if a.is_nan() || b.is_nan() { a + b } else { a.min(b) })
        }
        "max" if modifiers.has("NaN") => {
            float2!(modifiers, |a, b| if a.is_nan() || b.is_nan() { a + b } else { a.max(b) })
        }
        "min" => float2!(modifiers, |a, b| a.min(b)),
        "max" => float2!(modifiers, |a, b| a.max(b)),
        // The sign comes from the first operand.
        "copysign" => float2!(modifiers, |a, b| b.copysign(a)),
        "fma" | "mad" => return decode_fma(modifiers),
        "neg" => return decode_sign(modifiers.kind(), true),
        "abs" => return decode_sign(modifiers.kind(), false),
        "sqrt" => float1!(modifiers, |a| a.sqrt()),
        "rsqrt" => return decode_rsqrt(modifiers),
        "rcp" => float1!(modifiers, |a| 1.0 / a),
        "ex2" => float1!(modifiers, |a| a.exp2()),
        "lg2" => float1!(modifiers, |a| a.log2()),
        "sin" => float1!(modifiers, |a| a.sin()),
        "cos" => float1!(modifiers, |a| a.cos()),
        "tanh" => float1!(modifiers, |a| a.tanh()),
        _ => return None,
    })
}

fn decode_rounded(operation: &str, mode: &str, kind: &str) -> Option<Compute> {
    if kind != "f32" {
        return None;
    }
    // The sum and the product of two f32 are exact in f64, but for sums whose exponents are far apart: there the f64 has
    // 29 bits to spare, and the direction of its own rounding never crosses an f32.
    Some(match (operation, mode) {
        ("add", "rz") => word!(|a, b| toward_zero(f64::from(f32_of(a)) + f64::from(f32_of(b))).to_bits()),
        ("mul", "rz") => word!(|a, b| toward_zero(f64::from(f32_of(a)) * f64::from(f32_of(b))).to_bits()),
        ("add", "rm") => word!(|a, b| downward(f64::from(f32_of(a)) + f64::from(f32_of(b))).to_bits()),
        ("mul", "rm") => word!(|a, b| downward(f64::from(f32_of(a)) * f64::from(f32_of(b))).to_bits()),
        ("add", "rp") => word!(|a, b| upward(f64::from(f32_of(a)) + f64::from(f32_of(b))).to_bits()),
        ("mul", "rp") => word!(|a, b| upward(f64::from(f32_of(a)) * f64::from(f32_of(b))).to_bits()),
        ("fma", "rm") => {
            word!(|a, b, c| downward(f64::from(f32_of(a)).mul_add(f32_of(b).into(), f32_of(c).into())).to_bits())
        }
        _ => return None,
    })
}

fn decode_saturated(operation: &str, kind: &str) -> Option<Compute> {
    Some(match (operation, kind) {
        ("add", "f32") => word!(|a, b| saturate(f32_of(a) + f32_of(b))),
        ("mul", "f32") => word!(|a, b| saturate(f32_of(a) * f32_of(b))),
        ("fma", "f32") => word!(|a, b, c| saturate(f32_of(a).mul_add(f32_of(b), f32_of(c)))),
        _ => return None,
    })
}

fn decode_fma(modifiers: &Modifiers<'_>) -> Option<Compute> {
    // A product of two halves is exact in f64, and so is its sum with a third unless the exponents are far apart.
    Some(match modifiers.kind() {
        "f32" if modifiers.has("ftz") => word!(|a, b, c| flushed_fma(f32_of(a), f32_of(b), f32_of(c)).to_bits()),
        "f32" => Compute::Word(fast::fma_words()),
        "f64" => Compute::Long(fast::fma_longs()),
        "f16" => word!(|a, b, c| f16_bits(f64::from(f16_of(a)) * f64::from(f16_of(b)) + f64::from(f16_of(c)))),
        "bf16" => word!(|a, b, c| bf16_bits(f64::from(bf16_of(a)) * f64::from(bf16_of(b)) + f64::from(bf16_of(c)))),
        "f16x2" => word!(|a, b, c| {
            let half = |a, b, c| f16_bits(f64::from(f16_of(a)) * f64::from(f16_of(b)) + f64::from(f16_of(c)));
            half(a, b, c) | half(a >> 16, b >> 16, c >> 16) << 16
        }),
        "bf16x2" => word!(|a, b, c| {
            let half = |a, b, c| bf16_bits(f64::from(bf16_of(a)) * f64::from(bf16_of(b)) + f64::from(bf16_of(c)));
            half(a, b, c) | half(a >> 16, b >> 16, c >> 16) << 16
        }),
        _ => return None,
    })
}

fn flushed_fma(a: f32, b: f32, c: f32) -> f32 {
    flush(flush(a).mul_add(flush(b), flush(c)))
}

fn decode_rsqrt(modifiers: &Modifiers<'_>) -> Option<Compute> {
    Some(match modifiers.kind() {
        "f32" if modifiers.has("ftz") => word!(|a| flush((1.0 / f64::from(flush(f32_of(a))).sqrt()) as f32).to_bits()),
        "f32" => word!(|a| ((1.0 / f64::from(f32_of(a)).sqrt()) as f32).to_bits()),
        "f64" => long!(|a| (1.0 / f64_of(a).sqrt()).to_bits()),
        _ => return None,
    })
}

/// Changes signs as bits, so that a NaN keeps its payload.
fn decode_sign(kind: &str, negates: bool) -> Option<Compute> {
    Some(match (kind, negates) {
        ("f32", true) => word!(|a| a ^ 0x8000_0000),
        ("f32", false) => word!(|a| a & 0x7fff_ffff),
        ("f64", true) => long!(|a| a ^ (1 << 63)),
        ("f64", false) => long!(|a| a & !(1 << 63)),
        ("f16" | "bf16", true) => word!(|a| a ^ 0x8000),
        ("f16" | "bf16", false) => word!(|a| a & 0x7fff),
        ("f16x2" | "bf16x2", true) => word!(|a| a ^ 0x8000_8000),
        ("f16x2" | "bf16x2", false) => word!(|a| a & 0x7fff_7fff),
        _ => return None,
    })
}

/// Fused products with the processor's own instruction where there is one. Without it, each lane is a call of libm.
mod fast {
    use super::{LANES, Longs, Words};

    type WordFunction = fn(&Words, &Words, &Words, &mut Words);
    type LongFunction = fn(&Longs, &Longs, &Longs, &mut Longs);

    fn words(a: &Words, b: &Words, c: &Words, out: &mut Words) {
        for lane in 0..LANES {
            out[lane] = f32::from_bits(a[lane]).mul_add(f32::from_bits(b[lane]), f32::from_bits(c[lane])).to_bits();
        }
    }

    fn longs(a: &Longs, b: &Longs, c: &Longs, out: &mut Longs) {
        for lane in 0..LANES {
            out[lane] = f64::from_bits(a[lane]).mul_add(f64::from_bits(b[lane]), f64::from_bits(c[lane])).to_bits();
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn fma_words() -> WordFunction {
        words
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn fma_longs() -> LongFunction {
        longs
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn words_by_fma(a: &Words, b: &Words, c: &Words, out: &mut Words) {
        for lane in 0..LANES {
            out[lane] = f32::from_bits(a[lane]).mul_add(f32::from_bits(b[lane]), f32::from_bits(c[lane])).to_bits();
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn longs_by_fma(a: &Longs, b: &Longs, c: &Longs, out: &mut Longs) {
        for lane in 0..LANES {
            out[lane] = f64::from_bits(a[lane]).mul_add(f64::from_bits(b[lane]), f64::from_bits(c[lane])).to_bits();
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn has_fma() -> bool {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn fma_words() -> WordFunction {
        // SAFETY: the processor has both features.
        if has_fma() { |a, b, c, out| unsafe { words_by_fma(a, b, c, out) } } else { words }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn fma_longs() -> LongFunction {
        // SAFETY: the processor has both features.
        if has_fma() { |a, b, c, out| unsafe { longs_by_fma(a, b, c, out) } } else { longs }
    }
}
