//! The `InferenceCluster` resource, the plan that follows from one, and the `lockstep` command line.
//!
//! `resource` and `plan` are pure: no clock, no socket, no environment. `cli` alone does I/O.

#![forbid(unsafe_code)]

pub mod certificates;
pub mod cli;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod resource;
