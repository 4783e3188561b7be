//! Pods that Kubernetes cannot delete by itself. The Kubernetes node of such a pod does not answer. So no kubelet
//! confirms that the pod is gone, and the StatefulSet never makes another one.

use std::time::Duration;

/// Observed state of a pod that is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StuckPod {
    /// Time since the pod's grace period ended. `None` if it has not ended.
    pub overdue: Option<Duration>,
    /// True if the pod's Kubernetes node answers.
    pub kube_node_ready: bool,
    /// True for the head's pod.
    pub is_head: bool,
    /// True if the head reports the pod's ranks as lost. `None` if the head reports nothing.
    pub ranks_lost: Option<bool>,
}

/// Time after the grace period for which the operator keeps a pod on a silent Kubernetes node: a head's pod, or a
/// worker's pod if no head reports the pod's ranks.
pub const SILENT_NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns true if a pod that is being deleted must be deleted by force.
///
/// A worker's pod must be deleted by force once the head has given up the pod's ranks. This is safe, because the head
/// takes no further step with these ranks. If no head reports, the operator keeps the pod for [`SILENT_NODE_TIMEOUT`]
/// after the grace period. It always keeps a head's pod for that time. Afterwards the old head cannot form an epoch,
/// because the workers have lost the connection to it. So the workers of a group never serve two heads.
#[must_use]
pub fn must_force_delete(pod: StuckPod) -> bool {
    let timed_out = pod.overdue.is_some_and(|overdue| overdue >= SILENT_NODE_TIMEOUT);
    !pod.kube_node_ready && if pod.is_head { timed_out } else { pod.ranks_lost.unwrap_or(timed_out) }
}
