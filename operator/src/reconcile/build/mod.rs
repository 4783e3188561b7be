//! The third step: every object of a cluster, made from the validated cluster alone. Pure; one file for each kind.

pub mod labels;
mod revision;

pub use revision::{revision, short_hash};

use kube::api::ApiResource;

/// The Prometheus operator's kind, which some clusters have.
#[must_use]
pub fn pod_monitor_resource() -> ApiResource {
    ApiResource {
        group: "monitoring.coreos.com".into(),
        version: "v1".into(),
        api_version: "monitoring.coreos.com/v1".into(),
        kind: "PodMonitor".into(),
        plural: "podmonitors".into(),
    }
}
