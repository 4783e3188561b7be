//! The model families. Each file shows an architecture and nothing else.

mod decoder;
mod llama;
mod qwen3;

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
    match config.architecture {
        Architecture::Llama => Ok(Box::new(llama::Llama::load(loader, config)?)),
        Architecture::Qwen3 => Ok(Box::new(qwen3::Qwen3::load(loader, config)?)),
    }
}
