//! Forced deletion of pods whose Kubernetes node cannot confirm that they are gone, and the end of pods that still avoid
//! such a Kubernetes node.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::apply::{FORCED, delete_observed};
use super::observation::{GroupSeen, Observation};
use super::validate::Validated;
use super::{Context, ReconcileError};
use crate::clock::{elapsed, now};
use crate::objects::annotation;
use crate::pods;
use crate::rollout::{StuckPod, must_force_delete};

/// Deletes by force each pod of `cluster` for which [`must_force_delete`] returns true. Deletes pods that avoid a
/// Kubernetes node for too long.
///
/// # Errors
/// Fails if the API server refuses a request.
pub(super) async fn delete_stuck_pods(
    context: &Context,
    cluster: &Validated,
    seen: &Observation,
) -> Result<(), ReconcileError> {
    for group in seen.groups.values() {
        for (&ordinal, pod) in &group.pods {
            if avoids_for_too_long(pod) {
                delete_observed(context, &cluster.identity.namespace, pod.as_ref(), None).await?;
                continue;
            }
            if !must_force_delete(observe_pod(context, cluster, group, ordinal, pod)) {
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

/// Time after which a pod that avoids a Kubernetes node and has none is made again, without the prohibition. Kubernetes
/// itself knows by then that the avoided one is lost, or it is back and has the only room.
const AVOIDANCE: Duration = Duration::from_secs(45);

/// Returns true if `pod` has waited for a Kubernetes node long enough, and may not go to one that was silent when the pod
/// was made.
fn avoids_for_too_long(pod: &Pod) -> bool {
    let age = pod.creation_timestamp().map(|created| elapsed(created.0)).unwrap_or_default();
    let waits = pods::kube_node(pod).is_none() && pod.metadata.deletion_timestamp.is_none();
    waits && pod.annotations().contains_key(annotation::AVOIDS) && age >= AVOIDANCE
}

/// Returns the state of a pod. `ordinal` is the pod's ordinal in its group.
fn observe_pod(context: &Context, cluster: &Validated, group: &GroupSeen, ordinal: u32, pod: &Pod) -> StuckPod {
    // Kubernetes sets the deletion timestamp to the end of the grace period.
    let grace_period_end = pod.metadata.deletion_timestamp.as_ref().map(|end| end.0);
    StuckPod {
        deleted: grace_period_end.is_some(),
        overdue: grace_period_end.and_then(|end| Duration::try_from(now().duration_since(end)).ok()),
        kube_node_ready: pods::kube_node(pod).is_none_or(|kube_node| context.observed.is_node_ready(kube_node)),
        kube_node_silent: group.contacts.silent_machines.contains(&ordinal),
        is_head: ordinal == 0,
        head_silent: group.contacts.head_silent,
        ranks_lost: group.has_lost_ranks(ordinal, pod, cluster.spec.devices_per_node),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    /// Returns a pod that waits for a Kubernetes node and was made `age` ago.
    fn pod(age: Duration) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.annotations = Some([(annotation::AVOIDS.to_owned(), "node1".to_owned())].into());
        pod.metadata.creation_timestamp = Some(Time(now() - age));
        pod
    }

    /// A machine that comes back may have the only room.
    #[test]
    fn a_pod_does_not_avoid_a_kube_node_for_ever() {
        assert!(avoids_for_too_long(&pod(AVOIDANCE)));
        assert!(!avoids_for_too_long(&pod(AVOIDANCE / 2)));
        let mut placed = pod(AVOIDANCE);
        placed.spec.get_or_insert_default().node_name = Some("node2".into());
        assert!(!avoids_for_too_long(&placed));
        let mut plain = pod(AVOIDANCE);
        plain.metadata.annotations = None;
        assert!(!avoids_for_too_long(&plain));
    }
}
