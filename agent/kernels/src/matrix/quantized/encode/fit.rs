//! Scales by which small numbers come close to weights.
//!
//! Every function does the same operations in the same order on every instruction set: the loops are over lanes, and sums
//! are added lane by lane. So every node makes the same blocks.

use crate::simd::LANES;

/// Sizes below which a number counts as zero.
const TINY: f32 = 1e-15;
/// Number whose addition rounds a small number to an integer, which is then in the low bits.
const ROUND: f32 = 12_582_912.0;

/// Most times that a fit is improved by the levels that are nearest with its own result.
const MAX_REFITS: usize = 4;

/// Returns the whole number from `ends[0]` to `ends[1]` that is nearest to `x`.
#[inline(always)]
pub(super) fn nearest_whole(x: f32, ends: [f32; 2]) -> f32 {
    let x = if x > ends[0] { x } else { ends[0] };
    round(if x < ends[1] { x } else { ends[1] })
}

/// Rounds a number of less than 2²² to the nearest integer, ties to even.
#[inline(always)]
fn round(x: f32) -> f32 {
    x + ROUND - ROUND
}

/// Numbers that a scale is multiplied by. A quant names one of them.
pub(super) trait Levels {
    /// The lowest and the highest level.
    const ENDS: [f32; 2];
    /// Returns the level nearest to `x`.
    fn nearest(x: f32) -> f32;
    /// Returns the quant of a level.
    fn quant(level: f32) -> u8;
}

/// Whole numbers. The quant of the lowest is zero.
pub(super) struct Whole<const LOWEST: i32, const HIGHEST: i32>;

impl<const LOWEST: i32, const HIGHEST: i32> Levels for Whole<LOWEST, HIGHEST> {
    const ENDS: [f32; 2] = [LOWEST as f32, HIGHEST as f32];

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        nearest_whole(x, Self::ENDS)
    }
    #[inline(always)]
    fn quant(level: f32) -> u8 {
        (level as i32 - LOWEST) as u8
    }
}

/// Numbers that share a scale, and their weights in the error.
#[derive(Clone, Copy)]
pub(super) struct Run<'a, const N: usize> {
    pub(super) x: &'a [f32; N],
    pub(super) weights: &'a [f32; N],
}

/// A scale, and what is subtracted from the scaled levels.
#[derive(Clone, Copy, Default)]
pub(super) struct Line {
    pub(super) scale: f32,
    pub(super) minimum: f32,
}

/// A scale, and how much less the error is with it than if all levels were zero.
#[derive(Default)]
struct Gain {
    scale: f32,
    gain: f32,
}

/// Returns numbers from `first` to `last`, evenly apart.
pub(super) const fn evenly<const N: usize>(first: f32, last: f32) -> [f32; N] {
    let mut numbers = [first; N];
    let mut i = 1;
    while i < N {
        numbers[i] = first + (last - first) * i as f32 / (N - 1) as f32;
        i += 1;
    }
    numbers
}

/// Returns the sum of the lanes, always added by the same tree.
#[inline(always)]
fn sum(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Returns the number of the greatest absolute value.
#[inline(always)]
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |most: f32, x| if x.abs() > most.abs() { *x } else { most })
}

/// Returns `x / by`, or zero if `by` is next to nothing.
#[inline(always)]
pub(super) fn ratio(x: f32, by: f32) -> f32 {
    if by.abs() > TINY { x / by } else { 0.0 }
}

impl<const N: usize> Run<'_, N> {
    /// Returns `Σ w·x·level` and `Σ w·level²` for the levels nearest to `x · inverse`.
    #[inline(always)]
    fn products<L: Levels>(&self, inverse: f32) -> [f32; 2] {
        let (mut with_x, mut squares) = ([0.0; LANES], [0.0; LANES]);
        for first in (0..N).step_by(LANES) {
            for lane in 0..LANES {
                let (x, weight) = (self.x[first + lane], self.weights[first + lane]);
                let level = L::nearest(x * inverse);
                with_x[lane] += weight * level * x;
                squares[lane] += weight * level * level;
            }
        }
        [sum(with_x), sum(squares)]
    }

    /// Returns the scale by which levels come closest to the numbers. The search maps the number of the greatest absolute
    /// value to `reach · end` for both ends of the levels and each reach, and then improves the best.
    #[inline(always)]
    pub(super) fn fit_scale<L: Levels>(&self, reaches: &[f32]) -> f32 {
        let extreme = extreme(self.x);
        if extreme.abs() < TINY {
            return 0.0;
        }
        let mut best = Gain::default();
        for end in L::ENDS {
            for reach in reaches {
                self.try_scale::<L>(end * reach / extreme, &mut best);
            }
        }
        for _ in 0..MAX_REFITS {
            if !self.try_scale::<L>(ratio(1.0, best.scale), &mut best) {
                break;
            }
        }
        best.scale
    }

    /// Replaces the best scale by that of the levels nearest to `x · inverse`, if that is better.
    #[inline(always)]
    fn try_scale<L: Levels>(&self, inverse: f32, best: &mut Gain) -> bool {
        let [with_x, squares] = self.products::<L>(inverse);
        let is_better = squares > 0.0 && with_x * with_x > best.gain * squares;
        if is_better {
            *best = Gain { scale: with_x / squares, gain: with_x * with_x / squares };
        }
        is_better
    }

    /// Returns the line that comes closest to the numbers. Its minimum is not negative.
    #[inline(always)]
    pub(super) fn fit_line<L: Levels>(&self, reaches: &[f32]) -> Line {
        let (mut low, mut high) = (0f32, f32::MIN);
        let (mut weights, mut weighted) = ([0.0; LANES], [0.0; LANES]);
        for first in (0..N).step_by(LANES) {
            for lane in 0..LANES {
                let (x, weight) = (self.x[first + lane], self.weights[first + lane]);
                (low, high) = (if x < low { x } else { low }, if x > high { x } else { high });
                weights[lane] += weight;
                weighted[lane] += weight * x;
            }
        }
        let (weights, weighted) = (sum(weights), sum(weighted));
        if high - low < TINY {
            return Line { scale: 0.0, minimum: -low };
        }
        let [_, highest] = L::ENDS;
        let mut best = Line { scale: (high - low) / highest, minimum: -low };
        let mut least = self.error::<L>(best);
        for reach in reaches {
            let start = Line { scale: (high - low) / (highest * reach), minimum: -low };
            let line = self.refit_line::<L>(start, weights, weighted);
            let error = self.error::<L>(line);
            if error < least {
                (best, least) = (line, error);
            }
        }
        for _ in 0..MAX_REFITS {
            let line = self.refit_line::<L>(best, weights, weighted);
            let error = self.error::<L>(line);
            if error >= least {
                break;
            }
            (best, least) = (line, error);
        }
        best
    }

    /// Returns the best line for the levels that are nearest with another line. `weights` and `weighted` are `Σ w` and
    /// `Σ w·x`.
    #[inline(always)]
    fn refit_line<L: Levels>(&self, line: Line, weights: f32, weighted: f32) -> Line {
        let (mut levels, mut squares, mut with_x) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let inverse = ratio(1.0, line.scale);
        for first in (0..N).step_by(LANES) {
            for lane in 0..LANES {
                let (x, weight) = (self.x[first + lane], self.weights[first + lane]);
                let level = L::nearest((x + line.minimum) * inverse);
                levels[lane] += weight * level;
                squares[lane] += weight * level * level;
                with_x[lane] += weight * level * x;
            }
        }
        let (levels, squares, with_x) = (sum(levels), sum(squares), sum(with_x));
        let determinant = weights * squares - levels * levels;
        if determinant <= 0.0 {
            return line;
        }
        let minimum = (levels * with_x - squares * weighted) / determinant;
        let (scale, minimum) = match minimum < 0.0 {
            true => (ratio(with_x, squares), 0.0),
            false => ((weights * with_x - weighted * levels) / determinant, minimum),
        };
        Line { scale: if scale > 0.0 { scale } else { 0.0 }, minimum }
    }

    /// Returns the sum of the weighted squares of all errors with the nearest levels.
    #[inline(always)]
    pub(super) fn error<L: Levels>(&self, line: Line) -> f32 {
        let mut errors = [0.0; LANES];
        let inverse = ratio(1.0, line.scale);
        for first in (0..N).step_by(LANES) {
            for (lane, errors) in errors.iter_mut().enumerate() {
                let x = self.x[first + lane];
                let level = L::nearest((x + line.minimum) * inverse);
                let error = line.scale * level - line.minimum - x;
                *errors += self.weights[first + lane] * error * error;
            }
        }
        sum(errors)
    }

    /// Returns the quants of the nearest levels.
    #[inline(always)]
    pub(super) fn quants<L: Levels>(&self, line: Line) -> [u8; N] {
        let mut quants = [0; N];
        let inverse = ratio(1.0, line.scale);
        for (quant, x) in quants.iter_mut().zip(self.x) {
            *quant = L::quant(L::nearest((x + line.minimum) * inverse));
        }
        quants
    }
}
