//! How much of a group may be evicted at a time: one pod, because a group goes on when one node leaves it. So a drain of
//! a node is possible with one replica too. Pods that are not ready never hold a drain back.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::objects::labels;
use crate::plan::Names;
use crate::reconcile::validate::Validated;

/// The budget of one group, over its head and its workers.
pub(super) fn of_group(cluster: &Validated, names: &Names) -> PodDisruptionBudget {
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
