//! The engine of one rank: it turns a folder of weights and a step plan into sampled tokens.
//!
//! The head, which holds no weights, reads a model by [`describe`] and fixes its files by [`resolve`]. A [`Runner`] is one
//! rank.

#![forbid(unsafe_code)]

mod cache;
pub mod config;
mod describe;
mod entry;
mod error;
mod expected;
#[cfg(test)]
mod fixture;
pub mod gguf;
mod json;
mod layers;
mod loader;
mod models;
mod open;
mod packed;
mod placement;
mod runner;
mod sampler;
mod shard;
pub mod source;
mod tensor_reader;
mod weights;

pub use candle_core::DType;
pub use describe::{ModelDescription, WeightFacts, describe, weight_facts};
pub use error::EngineError;
pub use lockstep_kernels::{BlockFormat, release_free_memory};
pub use open::{open, open_gguf};
pub use placement::{Accelerator, Devices, PlacedLayers};
pub use runner::{ModelFacts, Runner, RunnerConfig, StepWithLogits};
pub use source::{ModelFile, ModelFiles, resolve, verify};
pub use weights::check_safetensors;

/// Returns the name of the instruction set that a rank computes with: `asked`, or the best that this machine has.
///
/// # Errors
/// [`EngineError::Kernel`] if `asked` is unknown or this machine lacks it.
pub fn isa_name(asked: Option<&str>) -> Result<&'static str, EngineError> {
    let isa = asked.map_or_else(|| Ok(lockstep_kernels::Isa::detect()), lockstep_kernels::Isa::force)?;
    Ok(isa.name())
}
