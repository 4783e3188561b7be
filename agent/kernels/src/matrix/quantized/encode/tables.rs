//! Encoders of IQ4_NL, IQ4_XS and MXFP4, whose levels are the numbers of a table.

use super::BlockEncoder;
use super::fit::{Levels, Line, Run, evenly, extreme};
use super::super_block::{Scaled, encode_scaled, nearest_f16, sizes};
use crate::matrix::quantized::GROUP_SIZE;
use crate::matrix::quantized::tables::{E2M1, IQ4, Iq4Nl, Iq4Xs, Mxfp4, half_power};

/// Levels of IQ4_NL and IQ4_XS. The table is sorted.
struct Iq4Levels;

/// Levels of MXFP4: doubled numbers in four bits.
struct Fp4Levels;

impl Levels for Iq4Levels {
    const ENDS: [f32; 2] = [IQ4[0] as f32, IQ4[15] as f32];

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        let mut nearest = Self::ENDS[0];
        for index in 1..IQ4.len() {
            let (before, level) = (f32::from(IQ4[index - 1]), f32::from(IQ4[index]));
            nearest = if 2.0 * x >= before + level { level } else { nearest };
        }
        nearest
    }
    fn quant(level: f32) -> u8 {
        IQ4.iter().position(|number| f32::from(*number) == level).unwrap_or(0) as u8
    }
}

impl Levels for Fp4Levels {
    const ENDS: [f32; 2] = [-12.0, 12.0];

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        let mut nearest = 0.0;
        for index in 1..8 {
            let (before, level) = (f32::from(E2M1[index - 1]), f32::from(E2M1[index]));
            nearest = if 2.0 * x.abs() >= before + level { level } else { nearest };
        }
        if x < 0.0 { -nearest } else { nearest }
    }
    fn quant(level: f32) -> u8 {
        E2M1.iter().position(|number| f32::from(*number) == level).unwrap_or(0) as u8
    }
}

/// Writes the quants of 32 columns. The first sixteen go into the low half of each byte.
fn pack_nibbles(quants: &[u8], to: &mut [u8]) {
    let (low, high) = quants.split_at(GROUP_SIZE / 2);
    for (to, (low, high)) in to.iter_mut().zip(low.iter().zip(high)) {
        *to = low | high << 4;
    }
}

/// Scales of IQ4 that are tried, relative to that which maps the extreme number to an end of the table.
const IQ4_REACHES: [f32; 15] = evenly(120.0 / 127.0, 134.0 / 127.0);

impl BlockEncoder for Iq4Nl {
    #[inline(always)]
    fn encode(x: &[f32], block: &mut [u8]) {
        let Some(x) = x.first_chunk::<GROUP_SIZE>() else { return };
        let run = Run { x, weights: &sizes(x) };
        let scale = nearest_f16(run.fit_scale::<Iq4Levels>(&IQ4_REACHES));
        block[..2].copy_from_slice(&scale.to_le_bytes());
        let line = Line { scale: scale.to_f32(), minimum: 0.0 };
        pack_nibbles(&run.quants::<Iq4Levels>(line), &mut block[2..]);
    }
}

impl BlockEncoder for Iq4Xs {
    #[inline(always)]
    fn encode(x: &[f32], block: &mut [u8]) {
        let Scaled { unit, steps, quants } = encode_scaled::<Iq4Levels, GROUP_SIZE, 8>(x, &IQ4_REACHES, [-32.0, 31.0]);
        block[..2].copy_from_slice(&unit.to_le_bytes());
        let mut high = 0;
        block[4..8].fill(0);
        for (group, step) in steps.into_iter().enumerate() {
            let step = (step + 32).cast_unsigned();
            block[4 + group / 2] |= (step & 0x0F) << (group % 2 * 4);
            high |= u16::from(step >> 4) << (2 * group);
        }
        block[2..4].copy_from_slice(&high.to_le_bytes());
        for (quants, to) in quants.chunks_exact(GROUP_SIZE).zip(block[8..].chunks_exact_mut(GROUP_SIZE / 2)) {
            pack_nibbles(quants, to);
        }
    }
}

/// Least and greatest exponent that are tried, relative to that of the extreme number.
const EXPONENTS: std::ops::RangeInclusive<i32> = -3..=-1;

impl BlockEncoder for Mxfp4 {
    #[inline(always)]
    fn encode(x: &[f32], block: &mut [u8]) {
        let Some(x) = x.first_chunk::<GROUP_SIZE>() else { return };
        let run = Run { x, weights: &sizes(x) };
        let biased = (extreme(x).abs().to_bits() >> 23) as i32;
        let (mut best, mut least) = (0, f32::INFINITY);
        for offset in EXPONENTS {
            let exponent = (biased + offset).clamp(0, 254) as u8;
            let error = run.error::<Fp4Levels>(Line { scale: half_power(exponent), minimum: 0.0 });
            if error < least {
                (best, least) = (exponent, error);
            }
        }
        block[0] = best;
        let line = Line { scale: half_power(best), minimum: 0.0 };
        pack_nibbles(&run.quants::<Fp4Levels>(line), &mut block[1..]);
    }
}
