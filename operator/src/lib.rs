//! The `InferenceCluster` resource, the plan that follows from one, and the `lockstep` command line.
//!
//! `resource`, `plan` and `diagnosis` are pure: no clock, no socket, no environment. `cli` alone does I/O.

#![forbid(unsafe_code)]

pub mod certificates;
pub mod cli;
pub mod diagnosis;
mod errors;
pub mod heads;
pub mod observe;
pub mod operate;
pub mod plan;
pub mod pods;
pub mod reconcile;
pub mod resource;
pub mod rollout;
