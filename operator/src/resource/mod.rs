//! `InferenceCluster`: its types, the CRD made from them, and the judging of a manifest without a cluster.
//!
//! Invariant: what judges a manifest here is the CRD itself (its schema, its defaults, its CEL rules), never a second
//! set of checks, so that a file accepted here is accepted by a cluster and the other way round.

mod judge;
mod lines;
mod manifest;
mod pods;
mod schema;
pub mod status;
#[cfg(test)]
mod tests;
mod types;

pub use judge::{Violation, judge};
pub use manifest::{MAX_MANIFEST_BYTES, ManifestError, Problem, load, parse};
pub use pods::{
    AccessMode, Autoscaling, ClientNetwork, ClientOrigin, ImagePullPolicy, LocalObject, ModelCache, Placement,
    PlacementPolicy, ServiceSpec, ServiceType, UpdateStrategy, Variable,
};
pub use status::InferenceClusterStatus;
pub use types::{
    Backend, DType, InferenceCluster, InferenceClusterSpec, Model, Overlay, Parallelism, Quantization, SecretKeyRef,
    Serving,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The CRD of `InferenceCluster`.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    InferenceCluster::crd()
}

/// The CRD as the YAML that `deploy/crd/` holds and `kubectl apply` takes.
///
/// # Errors
/// Where serialization fails, which for a derived CRD it does not.
pub fn crd_yaml() -> Result<String, serde_yaml::Error> {
    Ok(format!("# Made by `lockstep crd`. Do not edit: a test compares.\n{}", serde_yaml::to_string(&crd())?))
}
