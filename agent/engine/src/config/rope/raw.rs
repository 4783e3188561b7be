//! RoPE's parameters as `config.json` has them, checked.

use serde::Deserialize;

use super::{LongRope, Rope, RopeScaling, Yarn};

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
    /// Where parameters differ by kind of layer, they are one level down.
    full_attention: Option<Box<RawRope>>,
    sliding_attention: Option<Box<RawRope>>,
}

/// What the rest of the configuration says about a RoPE.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Where the parameters name none.
    pub theta: f64,
    pub partial: Option<f64>,
    pub head_dim: usize,
    /// Positions that the model was made for.
    pub context_length: usize,
    /// Positions that it was first trained on; stands above the parameters' own.
    pub original_context_length: Option<usize>,
    /// The types `su` and `yarn` mean LongRoPE.
    pub su_is_longrope: bool,
}

impl Rope {
    /// # Errors
    /// What is wrong with which field.
    pub fn new(raw: Option<&RawRope>, place: &Place) -> Result<Self, String> {
        let default = RawRope::default();
        let raw = raw.unwrap_or(&default);
        let theta = raw.rope_theta.unwrap_or(place.theta);
        if !(theta.is_normal() && theta > 0.0) {
            return Err(format!("rope_theta is {theta}: it must be above 0"));
        }
        let partial = raw.partial_rotary_factor.or(place.partial).unwrap_or(1.0);
        if !(partial > 0.0 && partial <= 1.0) {
            return Err(format!("partial_rotary_factor is {partial}: it must be above 0 and at most 1"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "head sizes are small, and the product is below one"
        )]
        let rotary_dim = (place.head_dim as f64 * partial) as usize;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            return Err(format!(
                "head_dim ({}) × partial_rotary_factor ({partial}) gives {rotary_dim} dimensions that turn: rotary \
                 embeddings need an even number of them, at least 2",
                place.head_dim
            ));
        }
        let scaling = Scaling { raw, place, theta, rotary_dim }.read()?;
        Ok(Self { theta, rotary_dim, scaling })
    }
}

impl RawRope {
    pub fn is_by_layer_type(&self) -> bool {
        self.full_attention.is_some() || self.sliding_attention.is_some()
    }

    /// The parameters of layers that see everything, and of those that slide.
    pub fn by_layer_type(&self) -> (Option<&Self>, Option<&Self>) {
        (self.full_attention.as_deref(), self.sliding_attention.as_deref())
    }
}

/// Reads the scaling of one RoPE.
struct Scaling<'a> {
    raw: &'a RawRope,
    place: &'a Place,
    theta: f64,
    rotary_dim: usize,
}

impl Scaling<'_> {
    fn kind(&self) -> &str {
        match self.raw.rope_type.as_deref().or(self.raw.old_type.as_deref()).unwrap_or("default") {
            "su" | "yarn" if self.place.su_is_longrope => "longrope",
            kind => kind,
        }
    }

    fn read(&self) -> Result<RopeScaling, String> {
        match self.kind() {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.factor()? }),
            "llama3" => self.llama3(),
            "yarn" => self.yarn().map(RopeScaling::Yarn),
            "longrope" => self.longrope().map(RopeScaling::LongRope),
            other => {
                Err(format!("rope type `{other}` is not supported; supported: default, linear, llama3, yarn, longrope"))
            }
        }
    }

    fn llama3(&self) -> Result<RopeScaling, String> {
        let (low, high) = (
            self.needed("low_freq_factor", self.raw.low_freq_factor)?,
            self.needed("high_freq_factor", self.raw.high_freq_factor)?,
        );
        if high <= low {
            return Err(format!("high_freq_factor ({high}) must be above low_freq_factor ({low})"));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.factor()?,
            low_freq_factor: narrow(low),
            high_freq_factor: narrow(high),
            original_context_length: self.original()?,
        })
    }

    fn yarn(&self) -> Result<Yarn, String> {
        if self.theta <= 1.0 {
            return Err(format!("rope_theta is {}: rope type `yarn` needs one above 1", self.theta));
        }
        let original = self.original()?;
        let factor = self.factor_or_ratio(original)?;
        // As the paper suggests, times what DeepSeek's models add.
        let growth = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        let usual = match (self.raw.mscale, self.raw.mscale_all_dim) {
            (Some(one), Some(all)) if one != 0.0 && all != 0.0 => growth(one) / growth(all),
            _ => growth(1.0),
        };
        let positive = |name, value: Option<f64>, usual| self.needed(name, Some(value.unwrap_or(usual)));
        Ok(Yarn {
            factor,
            beta_fast: positive("beta_fast", self.raw.beta_fast, 32.0)?,
            beta_slow: positive("beta_slow", self.raw.beta_slow, 1.0)?,
            truncate: self.raw.truncate.unwrap_or(true),
            original_context_length: original,
            attention_factor: narrow(positive("attention_factor", self.raw.attention_factor, usual)?),
        })
    }

    fn longrope(&self) -> Result<LongRope, String> {
        let original = self.original()?;
        let factor = self.factor_or_ratio(original)?;
        #[expect(clippy::cast_precision_loss, reason = "context lengths are far below 2^53")]
        let usual = match original {
            _ if factor <= 1.0 => 1.0,
            1 => return Err("original_max_position_embeddings is 1: rope type `longrope` needs at least 2".into()),
            _ => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        };
        Ok(LongRope {
            short: self.divisors("short_factor", self.raw.short_factor.as_deref())?,
            long: self.divisors("long_factor", self.raw.long_factor.as_deref())?,
            original_context_length: original,
            attention_factor: narrow(
                self.needed("attention_factor", Some(self.raw.attention_factor.unwrap_or(usual)))?,
            ),
        })
    }

    /// A list with a number above 0 for each frequency.
    fn divisors(&self, name: &str, list: Option<&[f64]>) -> Result<Vec<f32>, String> {
        let list = list.ok_or_else(|| format!("rope type `{}` needs {name}", self.kind()))?;
        let count = self.rotary_dim / 2;
        if list.len() != count {
            return Err(format!("{name} has {} numbers, and {count} pairs of dimensions turn", list.len()));
        }
        list.iter().map(|value| self.needed(name, Some(*value)).map(narrow)).collect()
    }

    fn factor(&self) -> Result<f32, String> {
        self.needed("factor", self.raw.factor).map(narrow)
    }

    /// `factor`, or how much longer the context is than the original one.
    fn factor_or_ratio(&self, original: usize) -> Result<f64, String> {
        #[expect(clippy::cast_precision_loss, reason = "context lengths are far below 2^53")]
        let ratio = self.place.context_length as f64 / original as f64;
        self.needed("factor", Some(self.raw.factor.unwrap_or(ratio)))
    }

    /// Positions of the first training.
    fn original(&self) -> Result<usize, String> {
        let given = self.place.original_context_length.or(self.raw.original_max_position_embeddings);
        match given.unwrap_or(self.place.context_length) {
            0 => Err("original_max_position_embeddings is 0: it must be at least 1".into()),
            length => Ok(length),
        }
    }

    /// A number that must be there, and above 0 in f32 too.
    fn needed(&self, name: &str, value: Option<f64>) -> Result<f64, String> {
        let kind = self.kind();
        match value {
            Some(value) if narrow(value).is_normal() && value > 0.0 => Ok(value),
            Some(value) => Err(format!("{name} of rope type `{kind}` is {value}: it must be above 0")),
            None => Err(format!("rope type `{kind}` needs {name}")),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "f32 is what the frequencies are computed in")]
fn narrow(value: f64) -> f32 {
    value as f32
}
