//! Events of what changed between two statuses: each transition once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _, ResourceExt as _};

use crate::reconcile::Context;
use crate::resource::status::{GroupPhase, GroupStatus, condition};
use crate::resource::{InferenceCluster, InferenceClusterStatus};

/// Most characters of a note: Kubernetes' own bound is 1024 bytes.
const NOTE: usize = 900;

/// A recorder for each cluster that is not steady. A recorder remembers for minutes what it published, to count what
/// happens again: one for all would hold every event of a thousand new clusters.
pub struct Recorders {
    reporter: Reporter,
    unsteady: Mutex<HashMap<(String, String), Recorder>>,
}

impl Recorders {
    #[must_use]
    pub fn new(reporter: Reporter) -> Self {
        Self { reporter, unsteady: Mutex::default() }
    }

    fn of(&self, client: &Client, namespace: &str, name: &str) -> Recorder {
        let recorder = || Recorder::new(client.clone(), self.reporter.clone());
        self.lock().entry((namespace.to_owned(), name.to_owned())).or_insert_with(recorder).clone()
    }

    /// A cluster is steady, or gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Recorder>> {
        self.unsteady.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thing to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    pub warning: bool,
    pub reason: String,
    pub note: String,
}

/// Publishes what is new. An event that cannot be written is logged: it changes nothing.
pub(super) async fn tell(context: &Context, object: &InferenceCluster, news: Vec<News>) {
    let reference = object.object_ref(&());
    let recorder = context.recorders.of(&context.client, &object.namespace().unwrap_or_default(), &object.name_any());
    for news in news {
        if news.warning {
            tracing::warn!(reason = news.reason, "{}", news.note);
        } else {
            tracing::info!(reason = news.reason, "{}", news.note);
        }
        let event = Event {
            type_: if news.warning { EventType::Warning } else { EventType::Normal },
            reason: news.reason,
            note: Some(news.note.chars().take(NOTE).collect()),
            action: "Reconcile".into(),
            secondary: None,
        };
        context.metrics.request("post");
        if let Err(error) = recorder.publish(&event, &reference).await {
            tracing::debug!(%error, "cannot write an event");
        }
    }
}

/// Transitions of the conditions' reasons, of groups' phases, and new crashes.
pub(super) fn news(before: &InferenceClusterStatus, now: &InferenceClusterStatus) -> Vec<News> {
    let mut all = Vec::new();
    for kind in [condition::DEGRADED, condition::READY] {
        let find = |status: &InferenceClusterStatus| status.conditions.iter().find(|one| one.type_ == kind).cloned();
        let (old, Some(new)) = (find(before), find(now)) else { continue };
        let same = old.as_ref().is_some_and(|old| old.status == new.status && old.reason == new.reason);
        let bad = kind == condition::DEGRADED;
        // That nothing is wrong is no news; why nothing serves was told as what is wrong, or is told by its group.
        let dull = (bad && new.status == "False") || all.iter().any(|news: &News| news.reason == new.reason);
        let still = !bad && new.status == "False" && old.as_ref().is_none_or(|old| old.status == "False");
        if !same && !dull && !still {
            all.push(News { warning: bad, reason: new.reason, note: new.message });
        }
    }
    // That the only group serves is said with the cluster's serving.
    let said = now.groups.len() == 1 && all.iter().any(|news| news.reason == "Serving");
    for group in &now.groups {
        let old = before.groups.iter().find(|old| old.index == group.index);
        let news = of_group(old, group).into_iter();
        all.extend(news.filter(|news| !said || news.reason != "GroupServing"));
    }
    for gone in before.groups.iter().filter(|old| !now.groups.iter().any(|group| group.index == old.index)) {
        all.push(News { warning: false, reason: "GroupRemoved".into(), note: format!("group {} is gone", gone.index) });
    }
    all
}

fn of_group(old: Option<&GroupStatus>, group: &GroupStatus) -> Vec<News> {
    let mut all = Vec::new();
    let index = group.index;
    if old.map(|old| old.phase) != Some(group.phase) && group.phase != GroupPhase::Pending {
        let words = if group.message.is_empty() { String::new() } else { format!(": {}", group.message) };
        all.push(News {
            warning: matches!(group.phase, GroupPhase::Recovering | GroupPhase::Stopped),
            reason: format!("Group{}", group.phase.as_str()),
            note: format!("group {index} is {}{words}", group.phase.as_str().to_lowercase()),
        });
    }
    let recoveries = group.recoveries - old.map_or(0, |old| old.recoveries);
    if old.is_some() && recoveries > 0 {
        let note = format!("group {index} went on after losing a rank ({} times so far)", group.recoveries);
        all.push(News { warning: false, reason: "Recovered".into(), note });
    }
    for crash in &group.crashes {
        let known = old.into_iter().flat_map(|old| &old.crashes);
        let known =
            known.clone().any(|one| one.pod == crash.pod && one.container == crash.container && one.at == crash.at);
        if !known {
            let note = format!(
                "{}/{} on {} ended with {}, exit code {}: {}",
                crash.pod, crash.container, crash.node, crash.reason, crash.exit_code, crash.log
            );
            all.push(News { warning: true, reason: "ContainerCrashed".into(), note });
        }
    }
    all
}
