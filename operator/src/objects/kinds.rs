//! Kinds of the objects that a cluster owns.

use k8s_openapi::api::{autoscaling, core, networking, policy};
use kube::core::ApiResource;

/// Returns the PodMonitor of the Prometheus operator, a kind that only some Kubernetes clusters have.
#[must_use]
pub fn pod_monitor() -> ApiResource {
    ApiResource {
        group: "monitoring.coreos.com".into(),
        version: "v1".into(),
        api_version: "monitoring.coreos.com/v1".into(),
        kind: "PodMonitor".into(),
        plural: "podmonitors".into(),
    }
}

/// Returns the kinds that clusters own, beside StatefulSets.
#[must_use]
pub fn owned_kinds(pod_monitors: bool) -> Vec<ApiResource> {
    let mut kinds = vec![
        ApiResource::erase::<core::v1::Service>(&()),
        ApiResource::erase::<core::v1::Secret>(&()),
        ApiResource::erase::<core::v1::PersistentVolumeClaim>(&()),
        ApiResource::erase::<networking::v1::NetworkPolicy>(&()),
        ApiResource::erase::<policy::v1::PodDisruptionBudget>(&()),
        ApiResource::erase::<autoscaling::v2::HorizontalPodAutoscaler>(&()),
    ];
    if pod_monitors {
        kinds.push(pod_monitor());
    }
    kinds
}
