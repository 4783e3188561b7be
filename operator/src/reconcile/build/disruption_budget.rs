//! The PodDisruptionBudget of a group. One pod may be evicted at a time, because a group recovers from the loss of one
//! pod. So a Kubernetes node can be drained even if a cluster has one replica. Pods that are not ready may always be
//! evicted.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::objects::labels;
use crate::plan::Names;
use crate::reconcile::validate::Validated;

/// Builds the budget of one group, for its head and its workers.
pub(super) fn build_disruption_budget(cluster: &Validated, names: &Names) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: cluster
            .identity
            .metadata(names.group_name(), labels::group_labels(&cluster.identity.name, names.group(), None)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(labels::select_pods(&cluster.identity.name, Some(names.group()), None)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..Default::default()
        }),
        ..Default::default()
    }
}
