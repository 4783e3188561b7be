//! Scaling of RoPE in a GGUF file: by metadata, or by tensors with a divisor for each frequency.

use serde_json::{Map, Value, json};

use super::family::FileFamily;
use super::header::{Header, TensorInfo};
use crate::EngineError;

/// Most numbers in one tensor of divisors: more than half of the largest head.
const MAX_FACTORS: u64 = 4096;

/// Function that fills a buffer with the first bytes of a tensor.
pub type ReadTensor<'a> = dyn FnMut(&TensorInfo, &mut [u8]) -> Result<(), EngineError> + 'a;

/// Divisors of frequencies that the file has as tensors.
#[derive(Debug, Default)]
pub struct RopeFactors {
    /// Divisors of Llama 3's scaling.
    llama3: Option<Vec<f32>>,
    /// Divisors of LongRoPE for short contexts.
    short: Option<Vec<f32>>,
    /// Divisors of LongRoPE for long contexts.
    long: Option<Vec<f32>>,
}

impl RopeFactors {
    /// Reads the tensors through `read`.
    ///
    /// # Errors
    /// [`EngineError::Format`] naming the tensor, and those of reading.
    pub fn from_header(header: &Header, read: &mut ReadTensor<'_>) -> Result<Self, EngineError> {
        Ok(Self {
            llama3: factors(header, "rope_freqs.weight", read)?,
            short: factors(header, "rope_factors_short.weight", read)?,
            long: factors(header, "rope_factors_long.weight", read)?,
        })
    }

    /// Returns the keys of `config.json` about RoPE.
    ///
    /// # Errors
    /// [`EngineError::Format`] naming the key or the tensor.
    pub fn fields(&self, header: &Header, family: FileFamily) -> Result<Map<String, Value>, EngineError> {
        let mut fields = Map::new();
        fields.insert("rope_theta".into(), json!(theta(header, family)?));
        if let Some(scaling) = self.scaling(header, family)? {
            fields.insert("rope_scaling".into(), scaling);
            // At the top, where the key comes before a family's default. llama.cpp takes the context if it is left out.
            let original = header.integer(&family.key("rope.scaling.original_context_length"))?;
            let original =
                if self.llama3.is_some() { None } else { original.or(header.integer(&family.key("context_length"))?) };
            if let Some(length) = original {
                fields.insert("original_max_position_embeddings".into(), length.into());
            }
        }
        Ok(fields)
    }

    fn scaling(&self, header: &Header, family: FileFamily) -> Result<Option<Value>, EngineError> {
        if let Some(divisors) = &self.llama3 {
            return llama3(header, theta(header, family)?, divisors).map(Some);
        }
        let key = |name: &str| family.key(&format!("rope.scaling.{name}"));
        if let (Some(short), Some(long)) = (&self.short, &self.long) {
            return Ok(Some(json!({
                "rope_type": "longrope", "short_factor": short, "long_factor": long,
                "attention_factor": header.float(&key("attn_factor"))?,
            })));
        }
        let kind = match header.text(&key("type"))? {
            None | Some("none") => return Ok(None),
            Some(kind) => kind,
        };
        let factor = header.float(&key("factor"))?.ok_or_else(|| header.wrong(&key("factor"), "it is missing"))?;
        Ok(Some(json!({ "rope_type": kind, "factor": factor })))
    }
}

fn theta(header: &Header, family: FileFamily) -> Result<f64, EngineError> {
    Ok(header.float(&family.key("rope.freq_base"))?.unwrap_or(10_000.0))
}

fn factors(header: &Header, name: &str, read: &mut ReadTensor<'_>) -> Result<Option<Vec<f32>>, EngineError> {
    let Some(tensor) = header.tensor(name) else { return Ok(None) };
    let count = match *tensor.shape {
        [count @ 1..=MAX_FACTORS] if tensor.kind == 0 => usize::try_from(count).unwrap_or(0),
        _ => {
            let reason = format!("tensor `{name}` is no f32 vector of at most {MAX_FACTORS}");
            return Err(EngineError::format(&header.file, reason));
        }
    };
    let mut bytes = vec![0; 4 * count];
    read(tensor, &mut bytes)?;
    Ok(Some(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
}

/// Finds the parameters of Llama 3.1's scaling. A file has only the divisor of each frequency. The greatest divisor is the
/// factor. One of the lengths that models were made for gives all the other divisors.
fn llama3(header: &Header, theta: f64, factors: &[f32]) -> Result<Value, EngineError> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let fits = |length: f64| {
        factors.iter().enumerate().all(|(index, divisor)| {
            #[expect(clippy::cast_precision_loss, reason = "head sizes are small")]
            let share = index as f64 / factors.len() as f64;
            (llama3_divisor(theta.powf(-share), factor, length) / f64::from(*divisor) - 1.0).abs() < 1e-3
        })
    };
    let length = (5..20).map(|bits| 1u32 << bits).find(|length| fits(f64::from(*length)));
    let length = length.ok_or_else(|| {
        EngineError::format(&header.file, "tensor `rope_freqs.weight`: its divisors are not those of Llama 3's scaling")
    })?;
    Ok(json!({
        "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
        "original_max_position_embeddings": length
    }))
}

/// Turns in the original length below which Llama 3 divides a frequency by the whole factor.
const LOW: f64 = 1.0;
/// Turns in the original length above which Llama 3 leaves a frequency as it is.
const HIGH: f64 = 4.0;

fn llama3_divisor(frequency: f64, factor: f64, length: f64) -> f64 {
    let turns = length * frequency / std::f64::consts::TAU;
    let share = ((turns - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
    1.0 / ((1.0 - share) / factor + share)
}
