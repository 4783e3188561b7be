//! A rank's body: from a folder of weights and a step plan to sampled tokens.
//!
//! [`describe`] is what the weightless head reads of a model, [`resolve`] fixes its files, [`Runner`] is one rank.

#![forbid(unsafe_code)]

mod cache;
pub mod config;
mod describe;
mod entry;
mod error;
#[cfg(test)]
mod fixture;
pub mod gguf;
mod layers;
mod loader;
mod models;
mod open;
mod placement;
mod runner;
mod sampler;
mod shard;
pub mod source;
mod weights;

pub use candle_core::DType;
pub use describe::{ModelDescription, WeightFacts, describe, weight_facts};
pub use error::EngineError;
pub use lockstep_kernels::BlockFormat;
pub use open::open;
pub use placement::{Accelerator, Devices, PlacedLayers};
pub use runner::{ModelFacts, Runner, RunnerConfig, StepWithLogits};
pub use source::{ModelFile, ModelFiles, resolve, verify};
pub use weights::check_safetensors;

/// Name of the instruction set that a rank computes with: the one asked for, else the best that this machine has.
///
/// # Errors
/// [`EngineError::Kernel`] for one that is unknown or not to be had here.
pub fn isa_name(asked: Option<&str>) -> Result<&'static str, EngineError> {
    let isa = asked.map_or_else(|| Ok(lockstep_kernels::Isa::detect()), lockstep_kernels::Isa::force)?;
    Ok(isa.name())
}
