//! Events that tell why a StatefulSet makes no pods, or why a pod does not start. No watch shows events, so the
//! operator requests them from the API server. It does so only for objects that are stuck, and reuses each response for
//! a while.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::api::{ListParams, ObjectMeta};
use kube::{Api, ResourceExt as _};
use tokio::time::Instant;

use super::Context;
use super::observation::GroupSeen;
use crate::clock::elapsed;
use crate::diagnosis::{last_seen, needs_events};

/// Reason of the event that the StatefulSet controller writes if it cannot make a pod.
pub(super) const FAILED_CREATE: &str = "FailedCreate";

/// Age from which the operator requests events of a StatefulSet that lacks pods, or of a pod that does not start.
const MIN_AGE: Duration = Duration::from_secs(5);
/// Shortest time for which the operator reuses the events of an object. It reuses those of a StatefulSet for this time,
/// and those of a pod for half of the pod's age, but at least this time and at most [`MAX_HOLD`]. So the operator
/// requests the events of a pod that pulls a large image for an hour a few dozen times.
const MIN_HOLD: Duration = Duration::from_secs(10);
/// Longest time for which the operator reuses the events of an object.
const MAX_HOLD: Duration = Duration::from_secs(120);
/// Largest number of events in one response of the API server.
const MAX_LISTED: u32 = 50;
/// Largest number of events that the operator keeps of one response.
const MAX_KEPT: usize = 8;

/// Events of stuck objects, by the uid of the object.
#[derive(Default)]
pub struct EventCache(tokio::sync::Mutex<HashMap<String, CachedEvents>>);

struct CachedEvents {
    requested: Instant,
    /// Time for which the operator reuses the events.
    hold: Duration,
    /// Newest events, each message once.
    events: Vec<Event>,
}

/// Returns the events of the group's StatefulSets that lack pods, and of its first pod that does not start.
pub(super) async fn read_events(context: &Context, namespace: &str, group: &GroupSeen) -> Vec<Event> {
    let mut events = Vec::new();
    let sets = [(&group.head_set, 1, 0), (&group.worker_set, group.workers(), 1)];
    for (set, wanted_pods, first_ordinal) in sets {
        let Some(set) = set else { continue };
        let wanted_pods = if replicas(set) == 0 { 0 } else { wanted_pods };
        let existing = group.pods.range(first_ordinal..first_ordinal + wanted_pods).count();
        if existing < wanted_pods as usize && is_observed(set) {
            let filter = format!("reason={FAILED_CREATE}");
            events.extend(request_events(context, namespace, set.as_ref(), &filter, MIN_HOLD).await);
        }
    }
    if let Some(pod) = group.pods.values().find(|pod| needs_events(pod)) {
        let hold = (age(pod.as_ref()) / 2).clamp(MIN_HOLD, MAX_HOLD);
        events.extend(request_events(context, namespace, pod.as_ref(), "type=Warning", hold).await);
    }
    events
}

fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Returns true if the StatefulSet controller has observed this generation of the set. Before, a busy controller may
/// not have made the pods yet.
fn is_observed(set: &StatefulSet) -> bool {
    set.status.as_ref().and_then(|status| status.observed_generation) >= set.metadata.generation
}

fn age(object: &impl kube::Resource) -> Duration {
    object.creation_timestamp().map(|created| elapsed(created.0)).unwrap_or_default()
}

/// Returns the newest events of `object`, among the events that the field selector `filter` selects. Reuses the
/// response for the time `hold`.
async fn request_events<K>(context: &Context, namespace: &str, object: &K, filter: &str, hold: Duration) -> Vec<Event>
where
    K: kube::Resource,
{
    let Some(uid) = object.uid().filter(|_| age(object) >= MIN_AGE) else { return Vec::new() };
    if let Some(cached) = context.events.0.lock().await.get(&uid)
        && cached.requested.elapsed() < cached.hold
    {
        return cached.events.clone();
    }
    let selector = format!("involvedObject.uid={uid},{filter}");
    let events: Api<Event> = Api::namespaced(context.client.clone(), namespace);
    context.metrics.count_request("list");
    let listed = match events.list(&ListParams::default().fields(&selector).limit(MAX_LISTED)).await {
        Ok(list) => list.items,
        Err(error) => {
            tracing::debug!(%error, object = object.name_any(), "cannot read events");
            Vec::new()
        }
    };
    let events = keep_newest(listed);
    let mut cache = context.events.0.lock().await;
    cache.retain(|_, cached| cached.requested.elapsed() < cached.hold);
    cache.insert(uid, CachedEvents { requested: Instant::now(), hold, events: events.clone() });
    events
}

/// Returns the newest [`MAX_KEPT`] events, each message once, without the fields that no diagnosis reads.
pub(super) fn keep_newest(mut events: Vec<Event>) -> Vec<Event> {
    events.sort_by_key(|event| std::cmp::Reverse(last_seen(event)));
    let mut kept: Vec<Event> = Vec::new();
    for event in events {
        let is_known = |newer: &Event| (&newer.reason, &newer.message) == (&event.reason, &event.message);
        if kept.len() < MAX_KEPT && !kept.iter().any(is_known) {
            let object = event.involved_object;
            kept.push(Event {
                involved_object: ObjectReference { name: object.name, uid: object.uid, ..Default::default() },
                reason: event.reason,
                message: event.message,
                last_timestamp: event.last_timestamp,
                event_time: event.event_time,
                series: event.series,
                metadata: ObjectMeta { creation_timestamp: event.metadata.creation_timestamp, ..ObjectMeta::default() },
                ..Default::default()
            });
        }
    }
    kept
}
