//! Pods that Kubernetes cannot end by itself: their node does not answer, so nobody confirms that they are gone, and
//! their StatefulSet waits for ever.

use std::time::Duration;

/// What is seen of a pod that is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck {
    /// How long ago its grace period ended; `None`: it has not.
    pub overdue: Option<Duration>,
    /// Its node answers.
    pub node_ready: bool,
    /// It is the head's pod.
    pub is_head: bool,
    /// The head says that the pod's ranks are lost; `None`: the head says nothing.
    pub ranks_lost: Option<bool>,
}

/// How long a silent node is waited for where no head can tell.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a pod that is being deleted is forced away. A worker's goes when the head has given its ranks up, which fences
/// it: the head takes no step with it any more. A head's goes when its node is silent: its group can form no epoch
/// without its workers, which have lost it too, so two heads never answer for one group.
#[must_use]
pub fn must_force(pod: Stuck) -> bool {
    let patient = pod.overdue.is_some_and(|overdue| overdue >= PATIENCE);
    !pod.node_ready && if pod.is_head { patient } else { pod.ranks_lost.unwrap_or(patient) }
}
