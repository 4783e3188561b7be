//! A rank's body: from a folder of weights and a step plan to sampled tokens.
//!
//! [`describe`] is what the weightless head reads of a model, [`resolve`] fixes its files, [`Runner`] is one rank.

#![forbid(unsafe_code)]

mod cache;
pub mod config;
mod describe;
mod error;
#[cfg(test)]
mod fixture;
mod layers;
mod models;
mod runner;
mod sampler;
mod shard;
pub mod source;
mod weights;

pub use describe::{ModelDescription, describe};
pub use error::EngineError;
pub use runner::{DTypeChoice, ModelFacts, Runner, RunnerConfig, StepWithLogits};
pub use source::{ModelFile, ModelFiles, ResolvedModel, open, resolve, verify};
