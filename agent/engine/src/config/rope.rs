//! Rotary position embeddings: base, scaling, and the table of cosines and sines.
//!
//! Angles are rounded to f32 exactly where transformers rounds them, so that f32 logits agree.

use candle_core::{Device, Tensor};
use serde::Deserialize;

/// How frequencies are stretched beyond the context that the model was first trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f32,
    },
    /// Low frequencies divided by `factor`, high ones kept, those between blended (Llama 3.1).
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context_length: usize,
    },
}

/// Rotary embedding of one model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    pub theta: f64,
    /// Leading dimensions of a head that turn; even, at most the head's size.
    pub rotary_dim: usize,
    pub scaling: RopeScaling,
}

/// `rope_scaling` of transformers 4, `rope_parameters` of transformers 5.
#[derive(Debug, Deserialize)]
pub struct RawRope {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
}

const DEFAULT_THETA: f64 = 10_000.0;

impl Rope {
    pub(super) fn new(
        raw: Option<&RawRope>,
        theta: Option<f64>,
        partial: Option<f64>,
        head_dim: usize,
    ) -> Result<Self, String> {
        let theta = raw.and_then(|raw| raw.rope_theta).or(theta).unwrap_or(DEFAULT_THETA);
        if !(theta.is_finite() && theta > 0.0) {
            return Err(format!("rope_theta is {theta}: it must be above 0"));
        }
        let partial = raw.and_then(|raw| raw.partial_rotary_factor).or(partial).unwrap_or(1.0);
        if !(partial > 0.0 && partial <= 1.0) {
            return Err(format!("partial_rotary_factor is {partial}: it must be above 0 and at most 1"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "head sizes are small, and the product is below one"
        )]
        let rotary_dim = (head_dim as f64 * partial) as usize & !1;
        Ok(Self { theta, rotary_dim, scaling: raw.map_or(Ok(RopeScaling::None), RawRope::scaling)? })
    }

    /// Inverse frequencies, `[rotary_dim / 2]`.
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let dim = self.rotary_dim;
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "f32 is what is asked for")]
        let plain = (0..dim / 2).map(|i| 1.0 / ((self.theta.powf((2 * i) as f64 / dim as f64)) as f32));
        plain.map(|frequency| self.scaling.apply(frequency)).collect()
    }

    /// Cosines and sines of every position below `positions`, each `[positions, rotary_dim / 2]` in f32.
    ///
    /// # Errors
    /// Candle's, on a device without room.
    pub fn tables(&self, positions: usize, device: &Device) -> candle_core::Result<(Tensor, Tensor)> {
        let frequencies = self.inverse_frequencies();
        #[expect(clippy::cast_precision_loss, reason = "positions are below 2^25; transformers rounds them too")]
        let angles = (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
        #[expect(clippy::cast_possible_truncation, reason = "rounded to f32 once")]
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            angles.map(|angle| (f64::from(angle).cos() as f32, f64::from(angle).sin() as f32)).unzip();
        let shape = (positions, frequencies.len());
        Ok((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
    }
}

impl RopeScaling {
    fn apply(self, frequency: f32) -> f32 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_length } => {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "context lengths are far below 2^24 in steps of a power"
                )]
                let original = original_context_length as f32;
                let wavelength = 2.0 * std::f32::consts::PI / frequency;
                if wavelength < original / high_freq_factor {
                    frequency
                } else if wavelength > original / low_freq_factor {
                    frequency / factor
                } else {
                    let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * (frequency / factor) + smooth * frequency
                }
            }
        }
    }
}

impl RawRope {
    fn scaling(&self) -> Result<RopeScaling, String> {
        let kind = self.rope_type.as_deref().or(self.old_type.as_deref()).unwrap_or("default");
        let positive = |name: &str, value: Option<f32>| match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => Err(format!("{name} of rope type `{kind}` is {value}: it must be above 0")),
            None => Err(format!("rope type `{kind}` needs {name}")),
        };
        match kind {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: positive("factor", self.factor)? }),
            "llama3" => {
                let (low, high) = (
                    positive("low_freq_factor", self.low_freq_factor)?,
                    positive("high_freq_factor", self.high_freq_factor)?,
                );
                if high <= low {
                    return Err(format!("high_freq_factor ({high}) must be above low_freq_factor ({low})"));
                }
                Ok(RopeScaling::Llama3 {
                    factor: positive("factor", self.factor)?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_context_length: self
                        .original_max_position_embeddings
                        .filter(|length| *length > 0)
                        .ok_or("rope type `llama3` needs original_max_position_embeddings")?,
                })
            }
            other => Err(format!("rope type `{other}` is not supported; supported: default, linear, llama3")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values computed with the published formulas in f64.
    #[test]
    fn llama3_keeps_high_frequencies_and_stretches_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context_length: 8192,
        };
        let plain = Rope { theta: 500_000.0, rotary_dim: 128, scaling: RopeScaling::None }.inverse_frequencies();
        let scaled = Rope { theta: 500_000.0, rotary_dim: 128, scaling }.inverse_frequencies();
        assert_eq!(plain.len(), 64);
        assert_eq!(scaled[0], 1.0);
        assert_eq!(scaled[20], plain[20]);
        assert_eq!(scaled[63], plain[63] / 8.0);
        let blended = scaled.iter().zip(&plain).filter(|(s, p)| *s < p && **s > *p / 8.0).count();
        assert!((1..20).contains(&blended), "{blended}");
    }

    #[test]
    fn tables_start_at_one_and_zero() {
        let rope = Rope { theta: 10_000.0, rotary_dim: 4, scaling: RopeScaling::Linear { factor: 2.0 } };
        let (cos, sin) = rope.tables(3, &Device::Cpu).unwrap();
        assert_eq!(cos.dims(), [3, 2]);
        assert_eq!(cos.to_vec2::<f32>().unwrap()[0], [1.0, 1.0]);
        let row = sin.to_vec2::<f32>().unwrap()[2].clone();
        assert!((row[0] - 1f32.sin()).abs() < 1e-7, "{row:?}");
        assert!((row[1] - 0.01f32.sin()).abs() < 1e-7, "{row:?}");
    }
}
