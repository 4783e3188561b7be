//! What is to be done with each group now: created, kept, drained, replaced, stopped or removed. A pure function of what
//! is observed; nothing is remembered between two calls.
//!
//! Invariants: groups are created one at a time, each when those before it are scheduled, so that two halves never hold
//! each other's devices. No serving group is taken away by a change while `max_unavailable` are out of service already.
//! A group that takes requests is drained before it goes.

mod lost;
#[cfg(test)]
mod tests;

pub use lost::{Stuck, must_force};

use std::collections::BTreeMap;
use std::time::Duration;

/// A head that drains takes requests for five seconds more, because clients are sent to it until every node has heard:
/// before that, nothing to do does not mean that nothing comes.
pub const LINGER: Duration = Duration::from_secs(6);

/// What the cluster asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Hash of what the user means.
    pub revision: String,
    pub generation: i64,
    pub replicas: u32,
    pub max_unavailable: u32,
    /// Groups with a lower index keep their revision.
    pub partition: u32,
    pub drain_timeout: Duration,
}

/// What is seen of one group that exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Of its StatefulSets.
    pub revision: String,
    /// Some of its pods are of another revision than its StatefulSets.
    pub outdated_pods: bool,
    /// Every pod has its node.
    pub scheduled: bool,
    /// Every rank serves.
    pub ready: bool,
    /// The head takes requests, or did before it was told to drain.
    pub taking_requests: bool,
    /// The head says that it drains, and how many requests it still has.
    pub draining: Option<u64>,
    /// Since it was first told to.
    pub drained_for: Option<Duration>,
    /// A container of it spent its restart budget.
    pub spent: bool,
    /// It was stopped for that, at this generation of the spec.
    pub stopped_at: Option<i64>,
}

/// What to do with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is not there yet, and must wait for one before it.
    Wait,
    Create,
    /// Keep what it runs, and repair what was changed.
    Keep,
    /// Let it finish what it has.
    Drain,
    /// Bring its sets to the wanted revision, and delete pods of another.
    Replace,
    /// It drains without need: a fresh head takes requests again.
    RestartHead,
    /// Keep it with no pods.
    Stop,
    Remove,
}

/// The step for each group that is there or wanted, by index.
#[must_use]
pub fn decide(wanted: &Wanted, groups: &BTreeMap<u32, Group>) -> BTreeMap<u32, Step> {
    let mut steps = BTreeMap::new();
    for (&index, group) in groups.range(wanted.replicas..) {
        let step = if finished(group, wanted) { Step::Remove } else { Step::Drain };
        steps.insert(index, step);
    }
    let mut all_scheduled = true;
    for index in 0..wanted.replicas {
        let step = match groups.get(&index) {
            None if all_scheduled => Step::Create,
            None => Step::Wait,
            Some(group) => settled(group, wanted, index),
        };
        all_scheduled &= step == Step::Stop || groups.get(&index).is_some_and(|group| group.scheduled);
        steps.insert(index, step);
    }
    roll(wanted, groups, &mut steps);
    steps
}

/// The step of a group as long as no change is brought to it.
fn settled(group: &Group, wanted: &Wanted, index: u32) -> Step {
    let current = group.revision == wanted.revision;
    let stays = current || index < wanted.partition;
    if stays && (group.spent || group.stopped_at == Some(wanted.generation)) {
        Step::Stop
    } else if group.outdated_pods && current {
        Step::Replace
    } else if group.draining.is_some() && stays {
        Step::RestartHead
    } else {
        Step::Keep
    }
}

/// Brings the change to as many groups as may be out of service: broken ones at once, then from the highest index down.
fn roll(wanted: &Wanted, groups: &BTreeMap<u32, Group>, steps: &mut BTreeMap<u32, Step>) {
    let outdated = |index: &u32| groups.get(index).is_some_and(|group| group.revision != wanted.revision);
    let mut candidates: Vec<u32> = (wanted.partition..wanted.replicas).filter(outdated).collect();
    // Those that drain already go on first, so that none is left half-way.
    candidates.sort_by_key(|index| (groups[index].draining.is_none(), std::cmp::Reverse(*index)));
    let serves = |group: &Group| group.ready && group.draining.is_none();
    let mut away = (0..wanted.replicas).filter(|index| !groups.get(index).is_some_and(serves)).count();
    for index in candidates {
        let group = &groups[&index];
        if serves(group) && away >= wanted.max_unavailable as usize {
            continue;
        }
        away += usize::from(serves(group));
        steps.insert(index, if finished(group, wanted) { Step::Replace } else { Step::Drain });
    }
}

/// Nothing is lost when the group goes now.
fn finished(group: &Group, wanted: &Wanted) -> bool {
    let drained_for = group.drained_for.unwrap_or_default();
    !group.taking_requests
        || (group.draining == Some(0) && drained_for >= LINGER)
        || (group.drained_for.is_some() && drained_for >= wanted.drain_timeout)
}
