//! What is seen of Kubernetes, kept by watches and never polled: clusters, their pods and StatefulSets, the nodes, and a
//! trace of every other object that the operator made.
//!
//! Invariant: memory is a few kilobytes a pod. What no decision needs is dropped before an object is stored, and of
//! objects that are only compared, a hash is kept in place of their content.

mod changes;
mod trimmed;
mod watches;

#[cfg(test)]
pub(crate) use trimmed::trim_pod;
pub use watches::{Observed, Scope, Watches};
