//! The head's brain, without a tensor: it sees plain numbers, does no I/O and reads no clock of its own.
//!
//! Requests go in, step plans come out, results of steps go back in, tokens come out. The caller brings the time and
//! the news of the group (formed, lost), so a simulation can drive everything that a cluster can do.

#![forbid(unsafe_code)]

mod blocks;
mod budget;
mod config;
mod mask;
pub mod plan;
mod prefix;
mod request;
mod scheduler;
mod sequence;

pub use config::{Micros, SchedulerConfig};
pub use request::{CompleteError, Failure, FinishReason, Request, RequestOutput, SchedulerStats, SubmitError};
pub use scheduler::Scheduler;
