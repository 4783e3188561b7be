//! The two kinds of decoder blocks that model families are made of. Each file shows one block and nothing else.
//! `config/families` states which kind, tensors and settings a family has.

mod decoder;
mod gemma;
mod llama;

use candle_core::Tensor;

use crate::EngineError;
use crate::cache::Cache;
use crate::config::{BlockKind, ModelConfig};
use crate::layers::{Pass, Residual};
use crate::loader::Loader;

/// One rank's part of a model.
pub trait Model: Send {
    /// Embeds the batch's ids: returns the residual stream `[tokens, hidden]` that enters the first layer. Only the
    /// first stage can.
    fn embed(&self, pass: &mut Pass<'_>) -> Result<Residual, EngineError>;

    /// Passes the stream through this stage's layers. Keys and values of the batch go into `cache`.
    fn forward_layers(&self, pass: &mut Pass<'_>, stream: &mut Residual, cache: &mut Cache) -> Result<(), EngineError>;

    /// Computes this rank's shard of the logits, `[rows, vocabulary shard]`, from rows of the stream that left the last
    /// layer. Only the last stage can.
    fn compute_logits(&self, pass: &mut Pass<'_>, rows: Residual) -> Result<Tensor, EngineError>;
}

/// Loads this rank's part of the model that `config` describes.
///
/// # Errors
/// The errors of reading weights.
pub fn load(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, EngineError> {
    let text = config.weights_prefix.map(|prefix| loader.child(prefix));
    let loader = text.as_ref().unwrap_or(loader);
    match config.architecture.facts().block {
        BlockKind::PreNorm => Ok(Box::new(llama::load(loader, config)?)),
        BlockKind::SandwichNorm => Ok(Box::new(gemma::load(loader, config)?)),
    }
}
