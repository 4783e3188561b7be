//! Certificates of a cluster's control streams, and the key of its groups: which Secrets to write now, and when to look
//! again. The decision is a pure function of the present Secrets and of `now`, except for the keys that it draws.
//!
//! One CA signs one leaf for each role. Every pod trusts the CAs in `ca.crt` of its leaf's Secret, and sees a change of the
//! Secret only some time after the write. So the operator brings a new CA in three steps, with a [`SPREAD`] between each:
//! pods trust the new CA beside the old one, then the new CA signs, then pods no longer trust the old one.
//!
//! Invariant: a leaf verifies against every bundle that was written since the look before the one that wrote the leaf,
//! until the look after the one that replaced it. There is no state but the certificates' own times.

mod authority;
mod leaf;
mod lifetime;
mod rotation;
mod secrets;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use lockstep_proto::names::role;

pub use lifetime::{CA_LIFETIME, LEAF_LIFETIME, SPREAD};
pub use rotation::decide_secrets;

use crate::plan::ClusterNames;

/// Holder of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateRole {
    Head,
    Node,
    Operator,
}

impl CertificateRole {
    /// All roles, in the order in which their Secrets are written: the CA's first.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Head, Self::Node];

    /// Returns the role as names of Secrets spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Node => "node",
            Self::Operator => "operator",
        }
    }

    /// Returns the name in the role's certificate.
    #[must_use]
    pub fn dns_name(self) -> &'static str {
        match self {
            Self::Head => role::HEAD,
            Self::Node => role::NODE,
            Self::Operator => role::OPERATOR,
        }
    }
}

/// Returns the name of the Secret with the leaf of `role`. The operator's leaf lies beside the CA's key: no pod sees them.
#[must_use]
pub fn secret_name(names: &ClusterNames, role: CertificateRole) -> String {
    match role {
        CertificateRole::Operator => names.ca_secret(),
        CertificateRole::Head | CertificateRole::Node => names.tls_secret(role.as_str()),
    }
}

/// Keys of the Secrets' data.
pub mod data {
    /// Every trusted CA in a pod's Secret, and the newest CA in the operator's.
    pub const CA_CERTIFICATE: &str = "ca.crt";
    pub const CERTIFICATE: &str = "tls.crt";
    pub const KEY: &str = "tls.key";
    pub const CA_KEY: &str = "ca.key";
    /// CA before the newest, while pods still trust it.
    pub const PREVIOUS_CERTIFICATE: &str = "previous.crt";
    pub const PREVIOUS_KEY: &str = "previous.key";
    /// Key that both ends of a link between ranks prove to hold. It is the same in every Secret.
    pub const GROUP_KEY: &str = "group.key";
}

/// Secrets of one cluster to write now, and the time of the next look.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretsDecision {
    /// Secrets to write, in this order. If one cannot be written, the later ones must not be. A Secret with a
    /// `resourceVersion` replaces the one that was read, and the write must fail if that one has changed since. A Secret
    /// without one is created, and the write must fail if it exists. So two writers never both make a CA.
    pub write: Vec<Secret>,
    /// Time at which the next change is due.
    pub look_again: Timestamp,
}

/// Failure to make a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("draw the groups' key: the system gives no random bytes")]
    Random,
}
