//! Histories of a simulated group, and of the operator in a simulated Kubernetes.
//!
//! A seed determines a [`History`]: what there is, what breaks and what is asked. Each kind of history checks properties of
//! its own, and a failing one is made small.

#![forbid(unsafe_code)]

mod finding;
pub mod group;
mod history;
pub mod operator;
mod rng;
mod shrink;

pub use finding::Finding;
pub use history::{Counts, History, Played};
