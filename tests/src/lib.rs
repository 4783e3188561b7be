//! What whole-system tests share: groups of real agent processes on loopback, and clients for them,
//! and a real Kubernetes that a test binary runs itself in.
//!
//! Processes are started by the test and ended by their ids; dropping a [`Group`] leaves none.

#![forbid(unsafe_code)]

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod group;
pub mod hub;
pub mod manifests;
pub mod process;
