//! Elementary functions on sixteen lanes: the same bits on every instruction set.

use super::Simd;

/// Computes `e^x` with a relative error of about 1.2e-7.
///
/// `x` is clamped to the range whose result is a normal f32. NaN gives a finite number: callers refuse NaN elsewhere or
/// do not depend on it. The method is range reduction by ln 2 in two parts, then the degree-6 polynomial of Cephes'
/// `expf`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const COEFFICIENTS: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let x = s.min(s.max(x, s.splat(-87.0)), s.splat(88.0));
    let whole = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let rest = s.fma(whole, s.splat(-0.693_359_4), x);
    let rest = s.fma(whole, s.splat(2.121_944_4e-4), rest);
    let mut sum = s.splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        sum = s.fma(sum, rest, s.splat(*coefficient));
    }
    let square = s.mul(rest, rest);
    let sum = s.add(s.fma(sum, square, rest), s.splat(1.0));
    s.mul(sum, s.exp2_int(whole))
}

/// Computes `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let negative = s.sub(s.splat(0.0), x);
    s.div(x, s.add(s.splat(1.0), exp(s, negative)))
}

/// Computes `x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, with `(1 + tanh u) / 2` written as `1 / (1 + e^-2u)`.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    /// `-2 √(2/π)`.
    const SLOPE: f32 = -1.595_769;
    let cubic = s.fma(s.mul(s.mul(x, x), s.splat(0.044_715)), x, x);
    s.div(x, s.add(s.splat(1.0), exp(s, s.mul(cubic, s.splat(SLOPE)))))
}

/// Computes `tanh x` with an absolute error of about 2e-7.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let twice = exp(s, s.add(x, x));
    let one = s.splat(1.0);
    s.sub(one, s.div(s.splat(2.0), s.add(twice, one)))
}
