//! Parts that whole-system tests share: groups of real agent processes on loopback, clients for them, and a real
//! Kubernetes that a test binary runs itself in.
//!
//! The test starts the processes and ends them by their ids. Dropping a [`Group`] leaves no process behind.

#![forbid(unsafe_code)]

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod group;
pub mod hub;
pub mod manifests;
pub mod process;
pub mod random;
pub mod readme;
pub mod wrong_models;
