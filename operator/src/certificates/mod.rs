//! The certificates of a cluster's control streams and the key of its groups: what must be written now, and when to
//! look again. A pure function of the Secrets as they are and of `now`, but for the keys that it draws.
//!
//! One CA signs one leaf for each role. Every pod trusts what `ca.crt` in its leaf's Secret holds, and sees a change
//! only some time after it was written, so that a new CA comes in steps, with a [`SPREAD`] between each: it is trusted
//! beside the old one; then it signs; then the old one is no longer trusted.
//!
//! Invariant: a leaf verifies against every bundle that was written since the look before the one that wrote the leaf,
//! until the look after the one that replaced it. There is no state but the certificates' own times.

mod authority;
mod leaf;
mod life;
mod rotation;
mod secrets;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use lockstep_proto::names::role;

pub use life::{CA_LIFE, LEAF_LIFE, SPREAD};
pub use rotation::decide;

use crate::plan::ClusterNames;

/// Whose certificate a leaf is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Head,
    Node,
    Operator,
}

impl Role {
    /// In the order in which their Secrets are written: the CA's first.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Head, Self::Node];

    /// As names of Secrets spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Node => "node",
            Self::Operator => "operator",
        }
    }

    /// The name in its certificate.
    #[must_use]
    pub fn dns_name(self) -> &'static str {
        match self {
            Self::Head => role::HEAD,
            Self::Node => role::NODE,
            Self::Operator => role::OPERATOR,
        }
    }
}

/// The Secret with the leaf of `role`: the operator's lies beside the CA's key, which no pod sees either.
#[must_use]
pub fn secret_of(names: &ClusterNames, role: Role) -> String {
    match role {
        Role::Operator => names.ca_secret(),
        Role::Head | Role::Node => names.tls_secret(role.as_str()),
    }
}

/// Keys of the Secrets' data.
pub mod data {
    /// In a pod's Secret every CA that is trusted; in the operator's the newest one.
    pub const CA_CERTIFICATE: &str = "ca.crt";
    pub const CERTIFICATE: &str = "tls.crt";
    pub const KEY: &str = "tls.key";
    pub const CA_KEY: &str = "ca.key";
    /// The CA before the newest, while it is still trusted.
    pub const PREVIOUS_CERTIFICATE: &str = "previous.crt";
    pub const PREVIOUS_KEY: &str = "previous.key";
    /// What links between ranks prove; the same in every Secret.
    pub const GROUP_KEY: &str = "group.key";
}

/// What is to be done about the Secrets of one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Secrets to write, in this order; where one cannot be written the later ones must not be. One with a
    /// `resourceVersion` replaces what was read and must fail where that has changed since; one without is created and
    /// must fail where it exists: two writers must never both make a CA.
    pub write: Vec<Secret>,
    /// When the next change is due.
    pub look_again: Timestamp,
}

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("draw the groups' key: the system gives no random bytes")]
    Random,
}
