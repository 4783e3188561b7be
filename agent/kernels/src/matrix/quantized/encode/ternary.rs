//! Encoders of TQ1_0 and TQ2_0.

use super::BlockEncoder;
use super::fit::{Line, Run, Whole, evenly};
use super::k_quants::pack_pairs;
use super::super_block::{COLUMNS, nearest_f16};
use crate::matrix::quantized::ternary::{Tq1_0, Tq2_0};

/// Returns the scale of a block, and its quants from 0 to 2.
#[inline(always)]
fn encode(x: &[f32]) -> ([u8; 2], [u8; COLUMNS]) {
    /// The extreme number of a block may be several times the scale.
    const REACHES: [f32; 31] = evenly(1.0, 4.0);
    let Some(x) = x.first_chunk::<COLUMNS>() else { return ([0; 2], [0; COLUMNS]) };
    let run = Run { x, weights: &[1.0; COLUMNS] };
    let scale = nearest_f16(run.fit_scale::<Whole<-1, 1>>(&REACHES));
    (scale.to_le_bytes(), run.quants::<Whole<-1, 1>>(Line { scale: scale.to_f32(), minimum: 0.0 }))
}

/// Returns a byte whose first digits to base three are `digits`, the first of them first.
fn fraction(digits: impl Iterator<Item = u8>) -> u8 {
    // Five digits are a number below 243, which becomes the numerator of a fraction of 256, rounded up.
    let (number, unit) =
        digits.fold((0, 243), |(number, unit), digit| (number + u16::from(digit) * (unit / 3), unit / 3));
    debug_assert!(unit > 0, "more than five digits");
    (number * 256).div_ceil(243) as u8
}

impl BlockEncoder for Tq1_0 {
    #[inline(always)]
    fn encode(x: &[f32], block: &mut [u8]) {
        let (scale, quants) = encode(x);
        for (index, byte) in block[..52].iter_mut().enumerate() {
            // Runs of 32, 16 and 4 bytes. The digits of a byte are as many columns apart.
            let (first, apart, digits) = match index {
                0..32 => (index, 32, 5),
                32..48 => (160 + index - 32, 16, 5),
                _ => (240 + index - 48, 4, 4),
            };
            *byte = fraction((0..digits).map(|digit| quants[first + digit * apart]));
        }
        block[52..].copy_from_slice(&scale);
    }
}

impl BlockEncoder for Tq2_0 {
    #[inline(always)]
    fn encode(x: &[f32], block: &mut [u8]) {
        let (scale, quants) = encode(x);
        block[..64].copy_from_slice(&pack_pairs(|column| quants[column]));
        block[64..].copy_from_slice(&scale);
    }
}
