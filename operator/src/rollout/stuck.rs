//! Pods that Kubernetes cannot delete by itself. The node of such a pod does not answer, so no kubelet confirms that
//! the pod is gone, and its StatefulSet waits for ever.

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

/// Time after the grace period for which a pod on a silent node is kept if no head reports its ranks.
pub const SILENT_NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns true if a pod that is being deleted must be deleted by force.
///
/// A worker's pod is forced when the head has given up its ranks. This fences the pod, because the head takes no step
/// with it any more. A head's pod is forced when its Kubernetes node is silent. The old head can form no epoch without
/// its workers, and they have lost it too, so two heads never answer for one group.
#[must_use]
pub fn must_force_delete(pod: StuckPod) -> bool {
    let timed_out = pod.overdue.is_some_and(|overdue| overdue >= SILENT_NODE_TIMEOUT);
    !pod.kube_node_ready && if pod.is_head { timed_out } else { pod.ranks_lost.unwrap_or(timed_out) }
}
