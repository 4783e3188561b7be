//! Forces away pods whose node cannot confirm that they are gone.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use lockstep_proto::v1::Phase;

use super::apply::delete_seen;
use super::dereference::{GroupSeen, Observation};
use super::validate::Validated;
use super::{Context, ReconcileError, now};
use crate::pods;
use crate::rollout::{StuckPod, must_force_delete};

/// Looks at every pod of `cluster` that is being deleted.
///
/// # Errors
/// The API server refuses.
pub(super) async fn force_away(
    context: &Context,
    cluster: &Validated,
    seen: &Observation,
) -> Result<(), ReconcileError> {
    for group in seen.groups.values() {
        for (&node, pod) in &group.pods {
            let Some(stuck) = stuck(context, cluster, group, node, pod) else { continue };
            if !must_force_delete(stuck) {
                continue;
            }
            tracing::warn!(
                namespace = cluster.identity.namespace,
                cluster = cluster.identity.name,
                pod = pod.name_any(),
                node = pods::kube_node(pod),
                "forcing the pod away: its node does not answer, and its group goes on without it"
            );
            delete_seen(context, &cluster.identity.namespace, pod.as_ref(), true).await?;
        }
    }
    Ok(())
}

fn stuck(context: &Context, cluster: &Validated, group: &GroupSeen, node: u32, pod: &Pod) -> Option<StuckPod> {
    // Kubernetes sets it to when the grace period ends.
    let ends = pod.metadata.deletion_timestamp.as_ref()?.0;
    let local = cluster.spec.devices_per_node;
    let lost = group.live().map(|report| {
        let ranks = report.status.ranks.iter().filter(|rank| rank.rank / local == node);
        // Of a pod that the head has replaced already it says nothing: another host has the rank.
        ranks.clone().all(|rank| rank.host != pod.name_any() || [Phase::Lost, Phase::Pending].contains(&rank.phase()))
    });
    Some(StuckPod {
        overdue: Duration::try_from(now().duration_since(ends)).ok(),
        kube_node_ready: pods::kube_node(pod).is_none_or(|node| context.observed.node_ready(node)),
        is_head: node == 0,
        ranks_lost: lost,
    })
}
