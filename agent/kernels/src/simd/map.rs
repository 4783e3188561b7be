//! Elementwise functions and sums over slices of any length, sixteen lanes at a time.

use super::{LANES, Simd};

/// Computes `outs[j][i] = f(ins[0][i], …)[j]`. All slices have one length.
#[inline(always)]
pub(crate) fn map<S: Simd, const N: usize, const M: usize>(
    s: S,
    ins: [&[f32]; N],
    outs: [&mut [f32]; M],
    f: impl Fn([S::V; N]) -> [S::V; M],
) {
    let length = ins[0].len();
    let ins = ins.map(|slice| slice[..length].as_chunks::<LANES>());
    let mut outs = outs.map(|slice| slice[..length].as_chunks_mut::<LANES>());
    let whole = length / LANES;
    // There is one call of `f`, so that the compiler inlines it: a closure does not inherit `target_feature`.
    for i in 0..length.div_ceil(LANES) {
        let mut vectors = [s.splat(0.0); N];
        for n in 0..N {
            let rest;
            let lanes = if i < whole {
                &ins[n].0[i]
            } else {
                rest = padded(ins[n].1);
                &rest
            };
            vectors[n] = s.load(lanes);
        }
        let results = f(vectors);
        for m in 0..M {
            if i < whole {
                s.store(results[m], &mut outs[m].0[i]);
            } else {
                let mut lanes = [0.0; LANES];
                s.store(results[m], &mut lanes);
                let rest = &mut outs[m].1;
                rest.copy_from_slice(&lanes[..rest.len()]);
            }
        }
    }
}

/// Returns `Σ x²`, added lane by lane and then over the lanes, always in the same order.
#[inline(always)]
pub(crate) fn sum_of_squares<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut sum = s.splat(0.0);
    for x in whole {
        let x = s.load(x);
        sum = s.fma(x, x, sum);
    }
    let rest = s.load(&padded(rest));
    s.sum(s.fma(rest, rest, sum))
}

/// Pads up to sixteen numbers with zeros.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}
