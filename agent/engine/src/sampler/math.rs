//! Exponential and logarithm in f64 from additions, multiplications and divisions alone: the same bits on every
//! machine. Ranks that choose from the same candidates must never differ, and C libraries differ in the last bit.

use std::f64::consts::{LN_2, SQRT_2};

/// Computes `e^x` for `x` up to 0 or a little above; 0 below -700.
pub fn exp(x: f64) -> f64 {
    const TERMS: u32 = 16;
    if x < -700.0 {
        return 0.0;
    }
    let halvings = (x / LN_2).round();
    let rest = x - halvings * LN_2;
    let series = (1..=TERMS).rev().fold(1.0, |sum, n| 1.0 + sum * rest / f64::from(n));
    #[expect(clippy::cast_possible_truncation, reason = "x is between -700 and what a caller of this module has")]
    let halvings = halvings as i32;
    series * power_of_two(halvings)
}

/// Computes `ln x` for a finite, normal `x` above 0.
pub fn ln(x: f64) -> f64 {
    const EXPONENT_BIAS: i64 = 1023;
    const MANTISSA_BITS: u32 = 52;
    let bits = x.to_bits().cast_signed();
    let mut exponent = (bits >> MANTISSA_BITS) - EXPONENT_BIAS;
    let mantissa_mask = (1i64 << MANTISSA_BITS) - 1;
    let mut mantissa = f64::from_bits(((bits & mantissa_mask) | (EXPONENT_BIAS << MANTISSA_BITS)).cast_unsigned());
    if mantissa > SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "exponents are below 1100")]
    let exponent = exponent as f64;
    exponent * LN_2 + twice_artanh((mantissa - 1.0) / (mantissa + 1.0))
}

/// Computes `ln(1 + x)` for `x` above -1, exactly for small ones.
pub fn ln_1p(x: f64) -> f64 {
    if x.abs() < 0.25 { twice_artanh(x / (2.0 + x)) } else { ln(1.0 + x) }
}

/// Computes `2 artanh(s)` for `|s| < 0.18`.
fn twice_artanh(s: f64) -> f64 {
    const TERMS: u32 = 11;
    let square = s * s;
    2.0 * s * (0..TERMS).rev().fold(0.0, |sum, n| sum * square + 1.0 / f64::from(2 * n + 1))
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(u64::try_from(i64::from(exponent) + 1023).unwrap_or(0) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_agree_with_the_standard_library() {
        let close = |got: f64, expected: f64| (got - expected).abs() <= 1e-13 * expected.abs().max(1e-300);
        for step in 0..20_000 {
            let x = -f64::from(step) / 29.0;
            assert!(close(exp(x), x.exp()), "exp {x}: {} {}", exp(x), x.exp());
            let y = f64::from(step + 1) * 1.7e-4;
            assert!((ln(y) - y.ln()).abs() < 1e-14, "ln {y}: {} {}", ln(y), y.ln());
            let u = -f64::from(step) / 20_001.0;
            assert!((ln_1p(u) - u.ln_1p()).abs() < 1e-14, "ln_1p {u}");
        }
        assert_eq!((exp(0.0), exp(-1000.0), ln(1.0)), (1.0, 0.0, 0.0));
        for tiny in [1e-10, 2.3e-10, 1e-7] {
            assert!(close(ln_1p(-tiny), (-tiny).ln_1p()));
            assert!(close(ln(tiny), tiny.ln()));
        }
        assert!(close(exp(3.0), 3f64.exp()));
    }
}
