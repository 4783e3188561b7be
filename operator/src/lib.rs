//! The `InferenceCluster` resource, the plan that follows from one, the operator and the `lockstep` command line.
//!
//! `resource`, `plan`, `diagnosis`, `rollout`, `objects`, `pods` and `certificates` decide. They open no socket and read
//! neither clock nor environment; `resource` also reads manifest files, and `certificates` draws random keys. The modules
//! that talk to the outside are `observe` (watches), `heads` (control streams), `reconcile` (in its steps dereference,
//! apply and status), `operate` (the operator's process) and `cli`.
//!
//! The whole controller runs in a simulation too, which puts itself in the place of the outside: of the watches
//! ([`observe::Source`]), of the API server ([`kube::Client`]), of heads, nodes and machines ([`heads::Network`]) and of the
//! time ([`clock`]).

#![forbid(unsafe_code)]

pub mod certificates;
pub mod cli;
pub mod clock;
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
