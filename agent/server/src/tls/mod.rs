//! Mutual TLS of the control port: who may speak there, by the names in certificates that one CA of the cluster signed.
//!
//! The files are looked at for every new connection, so that certificates change while processes run; what is open
//! stays open. A set of files that is no good is not used: the one before it serves on.

mod accept;
mod dial;
mod files;
#[cfg(test)]
mod tests;

pub use accept::{Caller, Connection, Peer, incoming};
pub use dial::connect;
pub use files::{Tls, TlsError};
