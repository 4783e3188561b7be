//! The model families. Each file shows an architecture and nothing else.

mod decoder;
mod gemma;
mod llama;
mod mixtral;
mod phi3;
mod qwen;

use candle_core::Tensor;

use crate::EngineError;
use crate::cache::Cache;
use crate::config::{Architecture, ModelConfig};
use crate::layers::{Pass, Residual};
use crate::weights::Loader;

/// One rank's part of a model.
pub trait Model: Send {
    /// The batch to the residual stream `[tokens, hidden]` before the last norm; its keys and values go into `cache`.
    fn hidden(&self, pass: &mut Pass<'_>, cache: &mut Cache) -> Result<Residual, EngineError>;

    /// Some rows of the stream to this rank's part of their logits, `[rows, vocabulary part]`.
    fn logits(&self, pass: &mut Pass<'_>, rows: Residual) -> Result<Tensor, EngineError>;
}

/// Loads the family that the configuration names.
///
/// # Errors
/// Those of reading weights.
pub fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, EngineError> {
    let text = config.text_place.map(|place| loader.at(place));
    let loader = text.as_ref().unwrap_or(loader);
    match config.architecture {
        Architecture::Llama | Architecture::Mistral => Ok(Box::new(llama::load(loader, config)?)),
        Architecture::Mixtral => Ok(Box::new(mixtral::load(loader, config)?)),
        Architecture::Qwen2 => Ok(Box::new(qwen::load_qwen2(loader, config)?)),
        Architecture::Qwen3 | Architecture::Qwen3Moe => Ok(Box::new(qwen::load_qwen3(loader, config)?)),
        Architecture::Gemma2 | Architecture::Gemma3 => Ok(Box::new(gemma::load(loader, config)?)),
        Architecture::Phi3 => Ok(Box::new(phi3::load(loader, config)?)),
    }
}
