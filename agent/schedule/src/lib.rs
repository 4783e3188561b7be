//! The head's scheduler. It works on plain numbers: it holds no tensor, does no I/O and reads no clock.
//!
//! Requests go in and step plans come out. Results of steps go in and tokens come out. The caller brings the time and
//! the news of the group (an epoch starts or ends), so a simulation can drive everything that a cluster can do.

#![forbid(unsafe_code)]

mod block_event;
mod block_hash;
mod block_manager;
mod config;
pub mod plan;
mod request;
mod scheduler;
mod sequence;
mod token_budget;
mod token_mask;

pub use block_event::{BlockEvent, StoredBlock};
pub use config::{Micros, SchedulerConfig};
pub use request::{CompleteError, Failure, FinishReason, Request, RequestOutput, SchedulerStats, SubmitError};
pub use scheduler::Scheduler;
