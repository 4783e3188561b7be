//! The `InferenceCluster` resource, the plan that follows from one, the operator and the `lockstep` command line.
//!
//! `resource`, `plan`, `diagnosis`, `rollout`, `objects`, `pods` and `certificates` decide. They open no socket and read
//! neither clock nor environment; `resource` also reads manifest files, and `certificates` draws random keys. The modules
//! that talk to the outside are `observe` (watches), `heads` (control streams), `reconcile` (in its steps dereference,
//! apply and status), `operate` (the operator's process) and `cli`.

#![forbid(unsafe_code)]

pub mod certificates;
pub mod cli;
pub mod diagnosis;
pub mod heads;
mod keep_alive;
mod log_line;
pub mod metrics;
pub mod objects;
pub mod observe;
pub mod operate;
pub mod plan;
pub mod pods;
pub mod reconcile;
pub mod resource;
pub mod rollout;
