//! The micro-kernel of every product: P panels by T rows of activations, all in registers.

use super::format::Format;
use crate::simd::Simd;

/// Distance in bytes between a streamed weight in use and the weight that is prefetched.
pub(super) const PREFETCH_BYTES: usize = 1024;

/// Panels of the micro-kernel, all of the same length.
pub(crate) type PanelUnits<'a, F, const P: usize> = [&'a [<F as Format>::Unit]; P];

/// Computes `sums[p][t] += Σ_k panels[p][k] · x[k][t]`, k ascending, with one fused multiply-add each.
///
/// `x` is `[k][T]`, with zeros where the last unit has more k's than there are. The weights that follow in the panels
/// are prefetched.
#[inline(always)]
pub(crate) fn accumulate<S: Simd, F: Format, const P: usize, const T: usize>(
    s: S,
    panels: PanelUnits<'_, F, P>,
    x: &[f32],
    sums: &mut [[S::V; T]; P],
) {
    let units = panels[0].len();
    let panels = panels.map(|panel| &panel[..units]);
    let (x, _) = x.as_chunks::<T>();
    let x = &x[..units * F::STEP];
    let mut local = *sums;
    for (unit, x) in x.chunks_exact(F::STEP).enumerate() {
        let mut weights = [[s.splat(0.0); 2]; P];
        for p in 0..P {
            s.prefetch(&panels[p][unit], PREFETCH_BYTES);
            weights[p] = F::widen(s, &panels[p][unit]);
        }
        for (step, x) in x.iter().enumerate() {
            for t in 0..T {
                let x = s.splat(x[t]);
                for p in 0..P {
                    local[p][t] = s.fma(weights[p][step], x, local[p][t]);
                }
            }
        }
    }
    *sums = local;
}
