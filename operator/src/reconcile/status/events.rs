//! Events of the changes between two statuses. The operator publishes each transition once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _, ResourceExt as _};

use crate::reconcile::Context;
use crate::resource::status::{GroupPhase, GroupStatus, condition};
use crate::resource::{InferenceCluster, InferenceClusterStatus};

/// Largest number of characters of an event's note. Kubernetes allows 1024 bytes.
const MAX_NOTE_CHARS: usize = 900;

/// Event recorders of unsteady clusters. A recorder remembers its events for minutes, to count repeated events. One
/// recorder for all clusters would hold every event of a thousand new clusters.
pub struct Recorders {
    reporter: Reporter,
    unsteady: Mutex<HashMap<(String, String), Recorder>>,
}

impl Recorders {
    #[must_use]
    pub fn new(reporter: Reporter) -> Self {
        Self { reporter, unsteady: Mutex::default() }
    }

    /// Returns the recorder of a cluster.
    fn recorder(&self, client: &Client, namespace: &str, name: &str) -> Recorder {
        let recorder = || Recorder::new(client.clone(), self.reporter.clone());
        self.lock().entry((namespace.to_owned(), name.to_owned())).or_insert_with(recorder).clone()
    }

    /// Drops the recorder of a cluster that is steady or deleted.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Recorder>> {
        self.unsteady.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One change that becomes an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub warning: bool,
    pub reason: String,
    pub note: String,
}

/// Logs and publishes the changes. An event that cannot be written is only logged.
pub(super) async fn publish(context: &Context, object: &InferenceCluster, changes: Vec<Change>) {
    let reference = object.object_ref(&());
    let recorder =
        context.recorders.recorder(&context.client, &object.namespace().unwrap_or_default(), &object.name_any());
    for change in changes {
        if change.warning {
            tracing::warn!(reason = change.reason, "{}", change.note);
        } else {
            tracing::info!(reason = change.reason, "{}", change.note);
        }
        let event = Event {
            type_: if change.warning { EventType::Warning } else { EventType::Normal },
            reason: change.reason,
            note: Some(change.note.chars().take(MAX_NOTE_CHARS).collect()),
            action: "Reconcile".into(),
            secondary: None,
        };
        context.metrics.count_request("post");
        if let Err(error) = recorder.publish(&event, &reference).await {
            tracing::debug!(%error, "cannot write an event");
        }
    }
}

/// Returns the changes between two statuses: of the conditions' reasons, of the phases of groups, and new crashes.
pub(super) fn find_changes(before: &InferenceClusterStatus, now: &InferenceClusterStatus) -> Vec<Change> {
    let mut all = Vec::new();
    for kind in [condition::DEGRADED, condition::READY] {
        let find = |status: &InferenceClusterStatus| {
            status.conditions.iter().find(|condition| condition.type_ == kind).cloned()
        };
        let (old, Some(new)) = (find(before), find(now)) else { continue };
        let same = old.as_ref().is_some_and(|old| old.status == new.status && old.reason == new.reason);
        let warning = kind == condition::DEGRADED;
        // An end of `Degraded` makes no event. The reason of `Ready` makes none if `Degraded` has the same reason, or
        // if the cluster was not ready before either: the changes of its groups tell more.
        let redundant =
            (warning && new.status == "False") || all.iter().any(|change: &Change| change.reason == new.reason);
        let still_unready = !warning && new.status == "False" && old.as_ref().is_none_or(|old| old.status == "False");
        if !same && !redundant && !still_unready {
            all.push(Change { warning, reason: new.reason, note: new.message });
        }
    }
    // If the only group serves, the event of the cluster is enough.
    let cluster_serves = now.groups.len() == 1 && all.iter().any(|change| change.reason == "Serving");
    for group in &now.groups {
        let old = before.groups.iter().find(|old| old.index == group.index);
        let changes = find_group_changes(old, group).into_iter();
        all.extend(changes.filter(|change| !cluster_serves || change.reason != "GroupServing"));
    }
    for removed in before.groups.iter().filter(|old| !now.groups.iter().any(|group| group.index == old.index)) {
        let note = format!("group {} is removed", removed.index);
        all.push(Change { warning: false, reason: "GroupRemoved".into(), note });
    }
    all
}

fn find_group_changes(old: Option<&GroupStatus>, group: &GroupStatus) -> Vec<Change> {
    let mut all = Vec::new();
    let index = group.index;
    if old.map(|old| old.phase) != Some(group.phase) && group.phase != GroupPhase::Pending {
        let detail = if group.message.is_empty() { String::new() } else { format!(": {}", group.message) };
        all.push(Change {
            warning: matches!(group.phase, GroupPhase::Recovering | GroupPhase::Stopped),
            reason: format!("Group{}", group.phase.as_str()),
            note: format!("group {index} is {}{detail}", group.phase.as_str().to_lowercase()),
        });
    }
    let recoveries = group.recoveries - old.map_or(0, |old| old.recoveries);
    if old.is_some() && recoveries > 0 {
        let note = format!(
            "an epoch of group {index} failed ({} since its head started), and the group forms again",
            group.recoveries
        );
        all.push(Change { warning: false, reason: "Recovered".into(), note });
    }
    for crash in &group.crashes {
        let known = old.into_iter().flat_map(|old| &old.crashes);
        let known =
            known.clone().any(|old| old.pod == crash.pod && old.container == crash.container && old.at == crash.at);
        if !known {
            let note = format!(
                "{}/{} on {} ended with {}, exit code {}: {}",
                crash.pod, crash.container, crash.node, crash.reason, crash.exit_code, crash.log
            );
            all.push(Change { warning: true, reason: "ContainerCrashed".into(), note });
        }
    }
    all
}
