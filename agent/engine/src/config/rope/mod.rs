//! Rotary position embeddings (Su et al. 2021, <https://arxiv.org/abs/2104.09864>): base, scaling, frequencies.
//!
//! Frequencies are rounded to f32 exactly where transformers rounds them, so that f32 logits agree.

mod raw;

pub use raw::{RawRope, RopeContext};

/// Stretching of frequencies beyond the context that the model was first trained on.
#[derive(Debug, Clone, PartialEq)]
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
    /// Low frequencies divided, high ones kept, blended over dimensions; queries and keys grow too (Peng et al. 2023,
    /// <https://arxiv.org/abs/2309.00071>).
    Yarn(Yarn),
    /// Each frequency divided by a number of its own; queries and keys grow too (Ding et al. 2024,
    /// <https://arxiv.org/abs/2402.13753>).
    LongRope(LongRope),
}

/// Parameters of YaRN.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    /// Turns within the original context above which a frequency is kept.
    pub beta_fast: f64,
    /// Turns within the original context below which a frequency is divided by `factor`.
    pub beta_slow: f64,
    /// The range of dimensions that are blended is widened to whole numbers.
    pub truncate: bool,
    pub original_context_length: usize,
    /// Factor on queries and keys.
    pub attention_factor: f32,
}

/// Parameters of LongRoPE.
#[derive(Debug, Clone, PartialEq)]
pub struct LongRope {
    /// One divisor a frequency, for contexts up to the original one.
    pub short: Vec<f32>,
    /// One divisor a frequency, for longer contexts.
    pub long: Vec<f32>,
    pub original_context_length: usize,
    /// Factor on queries and keys.
    pub attention_factor: f32,
}

/// One rotary embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies; above 0.
    pub theta: f64,
    /// Leading dimensions of a head that turn; even, from 2 to the head's size.
    pub rotary_dim: usize,
    pub scaling: RopeScaling,
}

impl Rope {
    /// Returns the angle by which each pair of dimensions turns from one position to the next, `[rotary_dim / 2]`.
    ///
    /// `context_length` is the length that the model is served with. LongRoPE chooses one of its two lists by it, so a
    /// key's rotation never changes while its sequence grows.
    pub fn inverse_frequencies(&self, context_length: usize) -> Vec<f32> {
        let plain = self.powers().map(|power| 1.0 / power);
        match &self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RopeScaling::Llama3 { .. } => plain.map(|frequency| self.scaling.llama3(frequency)).collect(),
            RopeScaling::Yarn(yarn) => yarn.frequencies(self),
            RopeScaling::LongRope(long) => {
                let beyond = context_length > long.original_context_length;
                let divisors = if beyond { &long.long } else { &long.short };
                self.powers().zip(divisors).map(|(power, divisor)| 1.0 / (divisor * power)).collect()
            }
        }
    }

    /// Returns the factor on queries and keys.
    pub fn attention_factor(&self) -> f32 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor,
            RopeScaling::LongRope(long) => long.attention_factor,
            _ => 1.0,
        }
    }

    /// Iterates over `theta^(2i / rotary_dim)`.
    fn powers(&self) -> impl Iterator<Item = f32> {
        let (theta, dim) = (self.theta, self.rotary_dim);
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "f32 is what is asked for")]
        (0..dim / 2).map(move |i| theta.powf((2 * i) as f64 / dim as f64) as f32)
    }
}

impl RopeScaling {
    /// Scales one frequency by Llama 3's rule.
    fn llama3(&self, frequency: f32) -> f32 {
        let Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_length } = *self else {
            return frequency;
        };
        #[expect(clippy::cast_precision_loss, reason = "context lengths are far below 2^24 in steps of a power")]
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

impl Yarn {
    fn frequencies(&self, rope: &Rope) -> Vec<f32> {
        let (low, high) = self.blended(rope);
        #[expect(clippy::cast_possible_truncation, reason = "f32 is what is asked for")]
        let (low, high, factor) = (low as f32, high as f32, self.factor as f32);
        #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
        let ramp = |i: usize| ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
        let blend = |(i, power): (usize, f32)| {
            let kept = 1.0 - ramp(i);
            1.0 / (factor * power) * (1.0 - kept) + 1.0 / power * kept
        };
        rope.powers().enumerate().map(blend).collect()
    }

    /// Returns the dimensions between which kept frequencies turn into divided ones.
    fn blended(&self, rope: &Rope) -> (f64, f64) {
        /// Least distance between the two, so that the slope between them is finite.
        const APART: f64 = 0.001;
        #[expect(clippy::cast_precision_loss, reason = "head sizes and contexts are small")]
        let (dim, original) = (rope.rotary_dim as f64, self.original_context_length as f64);
        let turning = |turns: f64| {
            let wavelength = original / (turns * 2.0 * std::f64::consts::PI);
            dim * wavelength.ln() / (2.0 * rope.theta.ln())
        };
        let (mut low, mut high) = (turning(self.beta_fast), turning(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(dim - 1.0));
        (low, if low == high { high + APART } else { high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: usize = 1 << 17;

    fn frequencies(theta: f64, rotary_dim: usize, scaling: RopeScaling) -> Vec<f32> {
        Rope { theta, rotary_dim, scaling }.inverse_frequencies(CONTEXT)
    }

    /// Values computed with the published formulas in f64.
    #[test]
    fn llama3_keeps_high_frequencies_and_stretches_low_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context_length: 8192,
        };
        let plain = frequencies(500_000.0, 128, RopeScaling::None);
        let scaled = frequencies(500_000.0, 128, scaling);
        assert_eq!(plain.len(), 64);
        assert_eq!(scaled[0], 1.0);
        assert_eq!(scaled[20], plain[20]);
        assert_eq!(scaled[63], plain[63] / 8.0);
        let blended = scaled.iter().zip(&plain).filter(|(s, p)| *s < p && **s > *p / 8.0).count();
        assert!((1..20).contains(&blended), "{blended}");
    }

    #[test]
    fn yarn_keeps_high_frequencies_and_stretches_low_ones() {
        let yarn = Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            original_context_length: 32_768,
            attention_factor: 1.0,
        };
        let plain = frequencies(1_000_000.0, 128, RopeScaling::None);
        let scaled = frequencies(1_000_000.0, 128, RopeScaling::Yarn(yarn));
        // The dimensions that turn 32 times and once within 32,768 positions are 23.59… and 39.64….
        assert_eq!(scaled[..24], plain[..24]);
        assert!(scaled[24] < plain[24] && scaled[39] > plain[39] / 4.0 * 1.01);
        for i in 40..64 {
            assert!((scaled[i] - plain[i] / 4.0).abs() <= plain[i] * 1e-6, "{i}");
        }
    }

    #[test]
    fn longrope_divides_by_the_list_of_the_context_served() {
        let scaling = RopeScaling::LongRope(LongRope {
            short: vec![1.0, 2.0],
            long: vec![4.0, 8.0],
            original_context_length: 4096,
            attention_factor: 1.2,
        });
        let rope = Rope { theta: 100.0, rotary_dim: 4, scaling };
        assert_eq!(rope.inverse_frequencies(4096), [1.0, 1.0 / 20.0]);
        assert_eq!(rope.inverse_frequencies(4097), [0.25, 1.0 / 80.0]);
        assert_eq!(rope.attention_factor(), 1.2);
    }
}
