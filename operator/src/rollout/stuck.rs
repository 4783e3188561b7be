//! Pods that only the operator replaces in time. The Kubernetes node of such a pod does not answer. So no kubelet
//! confirms that the pod is gone, and the StatefulSet makes no other one.
//!
//! Kubernetes itself notices a lost Kubernetes node after 40 to 50 seconds, and then waits for the grace period of the
//! pods. The group knows earlier: its head hears nothing from a node, or its nodes hear nothing from the head.
//!
//! Why a group never serves twice: an epoch needs every rank. The operator replaces a head only if a node of the group
//! says that it does not hear the head. So the old head, wherever it still runs, cannot form an epoch without that node,
//! and the node's ranks follow the new head. A worker is replaced only if its head has given up its ranks.

use std::time::Duration;

/// Time for which neither the operator nor a node of the group has heard the head, after which the head counts as silent.
pub const SILENCE: Duration = Duration::from_secs(5);

/// Word of a node about its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeWord {
    /// Time since the node last heard its head.
    pub silent_for: Duration,
}

/// Returns true if the head is silent. `operator_hears` tells if the operator has a connection to it, and `words` are
/// the answers of the group's nodes, those beside the head included. A single node that hears the head is a veto: the
/// head is cut off from the operator, or from a part of the group, and Kubernetes decides. Without any word of a node, the
/// operator itself may be cut off.
#[must_use]
pub fn is_head_silent(operator_hears: bool, words: &[NodeWord]) -> bool {
    !operator_hears && !words.is_empty() && words.iter().all(|word| word.silent_for >= SILENCE)
}

/// Observed state of a pod that may be stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StuckPod {
    /// True if the pod is being deleted.
    pub deleted: bool,
    /// Time since the grace period of a deleted pod ended. `None` if it has not ended.
    pub overdue: Option<Duration>,
    /// True if the pod's Kubernetes node is ready, as Kubernetes says.
    pub kube_node_ready: bool,
    /// True if the operator got no answer of the pod's Kubernetes node, and got one of another.
    pub kube_node_silent: bool,
    /// True for the head's pod.
    pub is_head: bool,
    /// True if the head of the group is silent.
    pub head_silent: bool,
    /// True if the head reports the pod's ranks as lost. `None` if the head reports nothing.
    pub ranks_lost: Option<bool>,
}

/// Time after the grace period for which the operator keeps a deleted pod on a lost Kubernetes node: a head's pod that
/// some node may still hear, or a worker's pod if no head reports the pod's ranks.
pub const LOST_NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns true if a pod must be deleted by force.
///
/// If the group has given the pod up, it goes as soon as its Kubernetes node does not answer, or is not ready and the pod
/// is being deleted. If the group says nothing of the pod, the pod goes [`LOST_NODE_TIMEOUT`] after the grace period.
#[must_use]
pub fn must_force_delete(pod: StuckPod) -> bool {
    let given_up = if pod.is_head { pod.head_silent } else { pod.ranks_lost == Some(true) };
    let is_lost = pod.deleted && !pod.kube_node_ready;
    let timed_out = pod.overdue.is_some_and(|overdue| overdue >= LOST_NODE_TIMEOUT);
    let in_doubt = pod.is_head || pod.ranks_lost.is_none();
    (given_up && (pod.kube_node_silent || is_lost)) || (is_lost && in_doubt && timed_out)
}
