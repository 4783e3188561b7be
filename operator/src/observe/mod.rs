//! The operator's view of Kubernetes: clusters, their pods and StatefulSets, the Kubernetes nodes, and a trace of every
//! other object that the operator made. Watches keep it up to date, and nothing is polled.
//!
//! Invariants:
//! - Memory is a few kilobytes a pod. A field that no decision needs is dropped before an object is stored. Objects that
//!   are only compared are stored as a hash of their content.
//! - An object that no store holds does not exist, as long as [`Lists`] counts no incomplete watch.

mod changes;
mod lists;
mod source;
mod trim;
mod watches;

pub use lists::Lists;
pub use source::{ApiServer, Events, Scope, Source};
#[cfg(test)]
pub(crate) use trim::trim_pod;
pub use watches::{Observed, Pauses, Watches};
