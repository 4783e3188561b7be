//! Blocks of 256 numbers whose runs have a scale, or a scale and a minimum, in steps of an f16.
//!
//! Each run gets the line that fits it best. The f16 makes the greatest scale of the block a whole number of steps. The steps
//! beside the nearest one are tried too, because the levels are chosen anew for the scale that results.

use half::f16;

use super::fit::{Levels, Line, Run, extreme, nearest_whole, ratio};

pub(super) const COLUMNS: usize = 256;

/// A block whose runs have a scale.
pub(super) struct Scaled<const RUNS: usize> {
    pub(super) unit: f16,
    pub(super) steps: [i8; RUNS],
    pub(super) quants: [u8; COLUMNS],
}

/// A block whose runs have a scale and a minimum, with a unit of each.
pub(super) struct Shifted<const RUNS: usize> {
    pub(super) units: [f16; 2],
    pub(super) steps: [[u8; 2]; RUNS],
    pub(super) quants: [u8; COLUMNS],
}

/// Steps of a scale that are tried, from the nearest.
const OFFSETS: [f32; 3] = [0.0, -1.0, 1.0];

/// Rounds to an f16, at most the greatest.
pub(super) fn nearest_f16(x: f32) -> f16 {
    f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

/// Returns the weights of numbers in the error: their sizes. The errors are then below those of llama.cpp's quantizer whether
/// large numbers count more or not.
#[inline(always)]
pub(super) fn sizes<const N: usize>(x: &[f32]) -> [f32; N] {
    let mut weights = [0.0; N];
    for (weight, x) in weights.iter_mut().zip(x) {
        *weight = x.abs();
    }
    weights
}

/// Adds to the weights a share of the usual size in their run of N.
#[inline(always)]
fn add_usual_sizes<const N: usize>(weights: &mut [f32; COLUMNS], x: &[f32], share: f32) {
    for (weights, x) in weights.as_chunks_mut::<N>().0.iter_mut().zip(x.as_chunks::<N>().0) {
        let squares: f32 = x.iter().map(|x| x * x).sum();
        let usual = (squares / N as f32).sqrt();
        weights.iter_mut().for_each(|weight| *weight += share * usual);
    }
}

/// Returns the runs of N numbers of a block.
#[inline(always)]
fn runs<'a, const N: usize>(x: &'a [f32], weights: &'a [f32; COLUMNS]) -> impl Iterator<Item = Run<'a, N>> {
    x.as_chunks().0.iter().zip(weights.as_chunks().0).map(|(x, weights)| Run { x, weights })
}

/// Encodes a block whose runs of N numbers have a scale. `ends` are the lowest and the highest step.
#[inline(always)]
pub(super) fn encode_scaled<L: Levels, const N: usize, const RUNS: usize>(
    x: &[f32],
    reaches: &[f32],
    ends: [f32; 2],
) -> Scaled<RUNS> {
    let weights = sizes(x);
    let mut scales = [0.0; RUNS];
    for (scale, run) in scales.iter_mut().zip(runs::<N>(x, &weights)) {
        *scale = run.fit_scale::<L>(reaches);
    }
    let unit = nearest_f16(extreme(&scales) / ends[0]);
    let mut block = Scaled { unit, steps: [0; RUNS], quants: [0; COLUMNS] };
    for (index, run) in runs::<N>(x, &weights).enumerate() {
        let nearest = nearest_whole(ratio(scales[index], unit.to_f32()), ends);
        let (mut best, mut least) = (Line::default(), f32::INFINITY);
        for offset in OFFSETS {
            let step = (nearest + offset).clamp(ends[0], ends[1]);
            let line = Line { scale: unit.to_f32() * step, minimum: 0.0 };
            let error = run.error::<L>(line);
            if error < least {
                (best, least) = (line, error);
                block.steps[index] = step as i8;
            }
        }
        block.quants[index * N..(index + 1) * N].copy_from_slice(&run.quants::<L>(best));
    }
    block
}

/// Encodes a block whose runs of N numbers have a scale and a minimum, of at most `most` steps each. The usual size of a run
/// counts by `share` in the weights of its numbers.
#[inline(always)]
pub(super) fn encode_shifted<L: Levels, const N: usize, const RUNS: usize>(
    x: &[f32],
    reaches: &[f32],
    most: f32,
    share: f32,
) -> Shifted<RUNS> {
    let mut weights = sizes(x);
    add_usual_sizes::<N>(&mut weights, x, share);
    let mut lines = [Line::default(); RUNS];
    let mut greatest = Line::default();
    for (line, run) in lines.iter_mut().zip(runs::<N>(x, &weights)) {
        *line = run.fit_line::<L>(reaches);
        greatest = Line { scale: greatest.scale.max(line.scale), minimum: greatest.minimum.max(line.minimum) };
    }
    let units = [nearest_f16(greatest.scale / most), nearest_f16(greatest.minimum / most)];
    let [scale_unit, minimum_unit] = units.map(f16::to_f32);
    let mut block = Shifted { units, steps: [[0; 2]; RUNS], quants: [0; COLUMNS] };
    for (index, run) in runs::<N>(x, &weights).enumerate() {
        let scale_steps = nearest_whole(ratio(lines[index].scale, scale_unit), [0.0, most]);
        let minimum_steps = nearest_whole(ratio(lines[index].minimum, minimum_unit), [0.0, most]);
        let (mut best, mut least) = (Line::default(), f32::INFINITY);
        for scale_offset in OFFSETS {
            for minimum_offset in OFFSETS {
                let scale = (scale_steps + scale_offset).clamp(0.0, most);
                let minimum = (minimum_steps + minimum_offset).clamp(0.0, most);
                let line = Line { scale: scale_unit * scale, minimum: minimum_unit * minimum };
                let error = run.error::<L>(line);
                if error < least {
                    (best, least) = (line, error);
                    block.steps[index] = [scale as u8, minimum as u8];
                }
            }
        }
        block.quants[index * N..(index + 1) * N].copy_from_slice(&run.quants::<L>(best));
    }
    block
}
