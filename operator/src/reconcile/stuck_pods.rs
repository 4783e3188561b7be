//! Forced deletion of pods whose Kubernetes node cannot confirm that they are gone.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use lockstep_proto::v1::Phase;

use super::apply::{FORCED, delete_observed};
use super::observation::{GroupSeen, Observation};
use super::validate::Validated;
use super::{Context, ReconcileError, now};
use crate::pods;
use crate::rollout::{StuckPod, must_force_delete};

/// Deletes by force each pod of `cluster` for which [`must_force_delete`] returns true.
///
/// # Errors
/// Fails if the API server refuses a request.
pub(super) async fn force_delete_stuck_pods(
    context: &Context,
    cluster: &Validated,
    seen: &Observation,
) -> Result<(), ReconcileError> {
    for group in seen.groups.values() {
        for (&ordinal, pod) in &group.pods {
            let Some(stuck) = observe_deletion(context, cluster, group, ordinal, pod) else { continue };
            if !must_force_delete(stuck) {
                continue;
            }
            tracing::warn!(
                namespace = cluster.identity.namespace,
                cluster = cluster.identity.name,
                pod = pod.name_any(),
                node = pods::kube_node(pod),
                "deleting the pod by force: its Kubernetes node does not answer, and no other pod can replace it"
            );
            delete_observed(context, &cluster.identity.namespace, pod.as_ref(), FORCED).await?;
        }
    }
    Ok(())
}

/// Returns the state of a pod that is being deleted, and `None` for any other pod. `ordinal` is the pod's ordinal in
/// its group.
fn observe_deletion(
    context: &Context,
    cluster: &Validated,
    group: &GroupSeen,
    ordinal: u32,
    pod: &Pod,
) -> Option<StuckPod> {
    // Kubernetes sets the deletion timestamp to the end of the grace period.
    let grace_period_end = pod.metadata.deletion_timestamp.as_ref()?.0;
    let ranks_per_pod = cluster.spec.devices_per_node;
    let ranks_lost = group.live_report().map(|report| {
        let ranks = report.status.ranks.iter().filter(|rank| rank.rank / ranks_per_pod == ordinal);
        // If the head has replaced the pod already, its report names another host for the rank.
        ranks.clone().all(|rank| rank.host != pod.name_any() || [Phase::Lost, Phase::Pending].contains(&rank.phase()))
    });
    Some(StuckPod {
        overdue: Duration::try_from(now().duration_since(grace_period_end)).ok(),
        kube_node_ready: pods::kube_node(pod).is_none_or(|kube_node| context.observed.is_node_ready(kube_node)),
        is_head: ordinal == 0,
        ranks_lost,
    })
}
