//! Decides the next step of each group: create, keep, drain, replace, stop or remove it. [`decide`] is a pure function
//! of the observed groups. It remembers nothing between two calls.
//!
//! Invariants:
//! - The operator creates one group at a time. It creates a group only when all groups before that group are scheduled
//!   or stopped, so that two half-scheduled groups never block each other by holding devices.
//! - A change takes no serving group out of service while `max_unavailable` groups are out of service already.
//! - The operator drains a group that accepts requests before it replaces or removes the group.

mod stuck;
#[cfg(test)]
mod tests;

pub use stuck::{NodeWord, SILENCE, StuckPod, is_head_silent, must_force_delete};

use std::collections::BTreeMap;
use std::time::Duration;

/// Shortest time of a drain while another group serves. A draining head accepts requests for five seconds more, because
/// Kubernetes sends it clients until every kube-proxy knows of the change. Until then, a head without requests may still
/// receive some. If no other group serves, the drain ends as soon as the head's pod is not ready: from then on
/// Kubernetes sends the head no clients, and a pause would only keep the clients waiting.
pub const MIN_DRAIN: Duration = Duration::from_secs(6);

/// Desired state of a cluster's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Hash of the fields of the spec that shape pods.
    pub revision: String,
    pub generation: i64,
    pub replicas: u32,
    pub max_unavailable: u32,
    /// Index below which groups keep their revision.
    pub partition: u32,
    pub drain_timeout: Duration,
}

/// Observed state of one group that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupRollout {
    /// Revision of the group's StatefulSets. Empty if they differ, or if one that is gone cannot be made again: then the
    /// group cannot stay as it is.
    pub revision: String,
    /// True if some pods have another revision than the StatefulSets.
    pub outdated_pods: bool,
    /// True if every pod is assigned to a Kubernetes node.
    pub scheduled: bool,
    /// True if every rank serves.
    pub ready: bool,
    /// True if the head accepts requests or drains.
    pub taking_requests: bool,
    /// True if Kubernetes may still send new clients to the head, because the head's pod is ready.
    pub gets_clients: bool,
    /// Number of requests that a draining head still has. `None` if the head does not drain.
    pub requests_to_drain: Option<u64>,
    /// Time since the operator first asked the head to drain.
    pub drained_for: Option<Duration>,
    /// True if a container of the group spent its restart budget.
    pub budget_spent: bool,
    /// Generation of the spec at which the operator stopped the group because of a spent budget.
    pub stopped_at: Option<i64>,
}

impl GroupRollout {
    /// Returns true if the group has no revision, so that not even the partition keeps it as it is.
    fn is_torn(&self) -> bool {
        self.revision.is_empty()
    }
}

/// Next step of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Create the group later, when all groups before it are scheduled or stopped.
    Wait,
    Create,
    /// Keep the group's pods, and repair objects that somebody changed.
    Keep,
    /// Tell the head to finish its requests and to accept no new ones.
    Drain,
    /// Bring the StatefulSets to the wanted revision, and delete pods of other revisions.
    Replace,
    /// Restart a head that drains although its group stays, so that the group accepts requests again.
    RestartHead,
    /// Keep the group without pods.
    Stop,
    Remove,
}

/// Returns the step of each group that exists or is wanted, by index.
#[must_use]
pub fn decide(wanted: &Wanted, groups: &BTreeMap<u32, GroupRollout>) -> BTreeMap<u32, Step> {
    let mut steps = BTreeMap::new();
    for (&index, group) in groups.range(wanted.replicas..) {
        let step = if may_take_down(group, wanted, others_serve(groups, index)) { Step::Remove } else { Step::Drain };
        steps.insert(index, step);
    }
    let mut all_scheduled = true;
    for index in 0..wanted.replicas {
        let step = match groups.get(&index) {
            None if all_scheduled => Step::Create,
            None => Step::Wait,
            Some(group) => step_without_change(group, wanted, index),
        };
        all_scheduled &= step == Step::Stop || groups.get(&index).is_some_and(|group| group.scheduled);
        steps.insert(index, step);
    }
    roll_out(wanted, groups, &mut steps);
    steps
}

/// Returns the step of a group whose turn to change has not come, or that needs no change.
fn step_without_change(group: &GroupRollout, wanted: &Wanted, index: u32) -> Step {
    let current = group.revision == wanted.revision;
    let stays = current || index < wanted.partition;
    if stays && (group.budget_spent || group.stopped_at == Some(wanted.generation)) {
        Step::Stop
    } else if group.outdated_pods && current {
        Step::Replace
    } else if group.requests_to_drain.is_some() && stays {
        Step::RestartHead
    } else {
        Step::Keep
    }
}

/// Brings the change to as many groups as may be out of service. Groups that do not serve wait for no other group.
/// Serving groups follow from the highest index down.
fn roll_out(wanted: &Wanted, groups: &BTreeMap<u32, GroupRollout>, steps: &mut BTreeMap<u32, Step>) {
    let must_change = |index: &u32| {
        let group = groups.get(index).filter(|group| group.revision != wanted.revision);
        group.is_some_and(|group| *index >= wanted.partition || group.is_torn())
    };
    let mut candidates: Vec<u32> = (0..wanted.replicas).filter(must_change).collect();
    // Groups that drain already come first, so that each drain that was begun is completed.
    candidates.sort_by_key(|index| (groups[index].requests_to_drain.is_none(), std::cmp::Reverse(*index)));
    let mut unavailable = (0..wanted.replicas).filter(|index| !groups.get(index).is_some_and(serves)).count();
    for index in candidates {
        let group = &groups[&index];
        if serves(group) && unavailable >= wanted.max_unavailable as usize {
            continue;
        }
        unavailable += usize::from(serves(group));
        let step = if may_take_down(group, wanted, others_serve(groups, index)) { Step::Replace } else { Step::Drain };
        steps.insert(index, step);
    }
}

/// Returns true if the operator may replace or remove the group now. Either no request is lost by that, or the drain
/// has lasted for the drain timeout. `others_serve`: clients have another group to turn to.
fn may_take_down(group: &GroupRollout, wanted: &Wanted, others_serve: bool) -> bool {
    let drained_for = group.drained_for.unwrap_or_default();
    !group.taking_requests
        || (group.requests_to_drain == Some(0) && (drained_for >= MIN_DRAIN || (!others_serve && !group.gets_clients)))
        || (group.drained_for.is_some() && drained_for >= wanted.drain_timeout)
}

/// Returns true if a group other than `index` serves.
fn others_serve(groups: &BTreeMap<u32, GroupRollout>, index: u32) -> bool {
    groups.iter().any(|(other, group)| *other != index && serves(group))
}

/// Returns true if the group serves and does not drain.
fn serves(group: &GroupRollout) -> bool {
    group.ready && group.requests_to_drain.is_none()
}
