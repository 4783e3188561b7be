//! Parameters of a RoPE as `config.json` has them, checked.

use serde::Deserialize;

use super::{LongRope, Rope, RopeScaling, Yarn};
use crate::config::ConfigError;

const ORIGINAL_LENGTH: &str = "original_max_position_embeddings";

/// `rope_scaling` of transformers 4, `rope_parameters` of transformers 5.
#[derive(Debug, Default, Deserialize)]
pub struct RawRope {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    short_factor: Option<Vec<f64>>,
    long_factor: Option<Vec<f64>>,
    /// Parameters of layers that see everything. If parameters differ by type of layer, they are one level down.
    full_attention: Option<Box<RawRope>>,
    sliding_attention: Option<Box<RawRope>>,
}

/// Values that the rest of the configuration has for a RoPE.
#[derive(Debug, Clone, Copy)]
pub struct RopeContext {
    /// Base if the parameters name none.
    pub theta: f64,
    /// Share of a head that turns if the parameters name none.
    pub partial: Option<f64>,
    pub head_dim: usize,
    /// Positions that the model was made for.
    pub context_length: usize,
    /// Positions that the model was first trained on. Takes precedence over the parameters' own number.
    pub original_context_length: Option<usize>,
    /// Types that mean LongRoPE.
    pub longrope_aliases: &'static [&'static str],
}

impl Rope {
    /// Checks the parameters of one RoPE.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key.
    pub fn new(raw: Option<&RawRope>, context: &RopeContext) -> Result<Self, ConfigError> {
        let default = RawRope::default();
        let raw = raw.unwrap_or(&default);
        let theta = raw.rope_theta.unwrap_or(context.theta);
        if !(theta.is_normal() && theta > 0.0) {
            return Err(ConfigError::out_of_bounds("rope_theta", theta, "above 0"));
        }
        let partial = raw.partial_rotary_factor.or(context.partial).unwrap_or(1.0);
        if !(partial > 0.0 && partial <= 1.0) {
            return Err(ConfigError::out_of_bounds("partial_rotary_factor", partial, "above 0 and at most 1"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "head sizes are small, and the product is below one"
        )]
        let rotary_dim = (context.head_dim as f64 * partial) as usize;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            return Err(ConfigError::RotaryDim { head_dim: context.head_dim, partial, rotary_dim });
        }
        let scaling = Scaling { raw, context, theta, rotary_dim }.parse()?;
        Ok(Self { theta, rotary_dim, scaling })
    }
}

impl RawRope {
    pub fn is_by_layer_type(&self) -> bool {
        self.full_attention.is_some() || self.sliding_attention.is_some()
    }

    /// Returns the parameters of layers that see everything, and of those that slide.
    pub fn by_layer_type(&self) -> (Option<&Self>, Option<&Self>) {
        (self.full_attention.as_deref(), self.sliding_attention.as_deref())
    }
}

/// Parameters of a RoPE whose scaling is to be read.
struct Scaling<'a> {
    raw: &'a RawRope,
    context: &'a RopeContext,
    theta: f64,
    rotary_dim: usize,
}

impl Scaling<'_> {
    /// Returns the type's name, an alias of LongRoPE by the name itself.
    fn kind(&self) -> &str {
        match self.raw.rope_type.as_deref().or(self.raw.old_type.as_deref()).unwrap_or("default") {
            alias if self.context.longrope_aliases.contains(&alias) => "longrope",
            kind => kind,
        }
    }

    fn parse(&self) -> Result<RopeScaling, ConfigError> {
        match self.kind() {
            // transformers changes the frequencies of `dynamic` only beyond the trained context, which is not served.
            "default" | "dynamic" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.factor()? }),
            "llama3" => self.llama3(),
            "yarn" => self.yarn().map(RopeScaling::Yarn),
            "longrope" => self.longrope().map(RopeScaling::LongRope),
            other => Err(ConfigError::UnsupportedName {
                key: "rope type",
                value: other.into(),
                supported: "default, dynamic, linear, llama3, yarn, longrope",
            }),
        }
    }

    fn llama3(&self) -> Result<RopeScaling, ConfigError> {
        let (low, high) = (
            self.require_positive("low_freq_factor", self.raw.low_freq_factor)?,
            self.require_positive("high_freq_factor", self.raw.high_freq_factor)?,
        );
        if high <= low {
            return Err(ConfigError::RopeFrequencies { low, high });
        }
        Ok(RopeScaling::Llama3 {
            factor: self.factor()?,
            low_freq_factor: narrow(low),
            high_freq_factor: narrow(high),
            original_context_length: self.original_length()?,
        })
    }

    fn yarn(&self) -> Result<Yarn, ConfigError> {
        if self.theta <= 1.0 {
            return Err(ConfigError::out_of_bounds("rope_theta", self.theta, "above 1 for rope type `yarn`"));
        }
        let original = self.original_length()?;
        let factor = self.factor_or_ratio(original)?;
        // The paper's suggestion, with the scales that DeepSeek's models add.
        let growth = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let usual = match (self.raw.mscale, self.raw.mscale_all_dim) {
            (Some(one), Some(all)) if one != 0.0 && all != 0.0 => growth(one) / growth(all),
            _ => growth(1.0),
        };
        let positive = |name, value: Option<f64>, usual| self.require_positive(name, Some(value.unwrap_or(usual)));
        Ok(Yarn {
            factor,
            beta_fast: positive("beta_fast", self.raw.beta_fast, 32.0)?,
            beta_slow: positive("beta_slow", self.raw.beta_slow, 1.0)?,
            truncate: self.raw.truncate.unwrap_or(true),
            original_context_length: original,
            attention_factor: narrow(positive("attention_factor", self.raw.attention_factor, usual)?),
        })
    }

    fn longrope(&self) -> Result<LongRope, ConfigError> {
        let original = self.original_length()?;
        let factor = self.factor_or_ratio(original)?;
        #[expect(clippy::cast_precision_loss, reason = "context lengths are far below 2^53")]
        let usual = match original {
            _ if factor <= 1.0 => 1.0,
            1 => {
                return Err(ConfigError::out_of_bounds(ORIGINAL_LENGTH, 1, "at least 2 for rope type `longrope`"));
            }
            _ => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        };
        Ok(LongRope {
            short: self.divisors("short_factor", self.raw.short_factor.as_deref())?,
            long: self.divisors("long_factor", self.raw.long_factor.as_deref())?,
            original_context_length: original,
            attention_factor: narrow(
                self.require_positive("attention_factor", Some(self.raw.attention_factor.unwrap_or(usual)))?,
            ),
        })
    }

    /// Checks a list with a number above 0 for each frequency.
    fn divisors(&self, key: &'static str, list: Option<&[f64]>) -> Result<Vec<f32>, ConfigError> {
        let list = list.ok_or_else(|| self.missing(key))?;
        let count = self.rotary_dim / 2;
        if list.len() != count {
            return Err(ConfigError::RopeDivisors { key, found: list.len(), expected: count });
        }
        list.iter().map(|value| self.require_positive(key, Some(*value)).map(narrow)).collect()
    }

    fn factor(&self) -> Result<f32, ConfigError> {
        self.require_positive("factor", self.raw.factor).map(narrow)
    }

    /// Returns `factor`, or the ratio of the context's length to the original one's.
    fn factor_or_ratio(&self, original: usize) -> Result<f64, ConfigError> {
        #[expect(clippy::cast_precision_loss, reason = "context lengths are far below 2^53")]
        let ratio = self.context.context_length as f64 / original as f64;
        self.require_positive("factor", Some(self.raw.factor.unwrap_or(ratio)))
    }

    /// Returns the positions of the first training.
    fn original_length(&self) -> Result<usize, ConfigError> {
        let given = self.context.original_context_length.or(self.raw.original_max_position_embeddings);
        match given.unwrap_or(self.context.context_length) {
            0 => Err(ConfigError::out_of_bounds(ORIGINAL_LENGTH, 0, "at least 1")),
            length => Ok(length),
        }
    }

    /// Returns a number that must be there, and above 0 in f32 too.
    fn require_positive(&self, key: &'static str, value: Option<f64>) -> Result<f64, ConfigError> {
        match value {
            Some(value) if narrow(value).is_normal() && value > 0.0 => Ok(value),
            Some(value) => Err(ConfigError::RopeValue { kind: self.kind().into(), key, value }),
            None => Err(self.missing(key)),
        }
    }

    fn missing(&self, key: &'static str) -> ConfigError {
        ConfigError::MissingRopeKey { kind: self.kind().into(), key }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "f32 is what the frequencies are computed in")]
fn narrow(value: f64) -> f32 {
    value as f32
}
