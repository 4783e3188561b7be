//! Pods that Kubernetes refuses to make: quotas, Pod Security, admission. Only events of StatefulSets tell of them.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;

use super::{ClusterFacts, Diagnosis, Reason, Subject, pod_name};
use crate::plan::Names;

/// Returns the newest refusal of a pod that is still missing.
pub(super) fn find_refusal(facts: &ClusterFacts<'_>) -> Option<Diagnosis> {
    let refusals = facts.events.iter().filter(|event| event.reason.as_deref() == Some("FailedCreate"));
    let event = refusals.filter(|event| lacks_pods(facts, event)).max_by_key(|event| last_seen(event))?;
    let message = event.message.as_deref().unwrap_or_default();
    let object = event.involved_object.name.as_deref().unwrap_or_default();
    let subject = Subject { cluster: facts.cluster, object, ..Subject::default() };
    Some(Diagnosis::new(classify_refusal(message), subject).with_evidence(message))
}

fn classify_refusal(message: &str) -> Reason {
    if message.contains("exceeded quota") || message.contains("failed quota") {
        Reason::QuotaExceeded
    } else if message.contains("violates PodSecurity") {
        Reason::PodSecurityRefused
    } else {
        Reason::PodsRefused
    }
}

/// Returns true if the event is about a set of the cluster that has fewer pods than it should.
fn lacks_pods(facts: &ClusterFacts<'_>, event: &Event) -> bool {
    let set = event.involved_object.name.as_deref().unwrap_or_default();
    let sets = (0..facts.spec.replicas).flat_map(|group| {
        let names = Names::new(facts.cluster, group);
        [(names.head_set(), 1), (names.worker_set(), facts.spec.workers)]
    });
    let Some((_, wanted)) = sets.into_iter().find(|(name, _)| name == set) else { return false };
    let prefix = format!("{set}-");
    let existing = facts.pods.iter().filter(|pod| pod_name(pod).starts_with(&prefix)).count();
    existing < wanted as usize
}

/// Returns the time at which the event was last seen.
#[must_use]
pub fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().or(event.metadata.creation_timestamp.as_ref()).map(|time| time.0);
    series.max(last).max(event.event_time.as_ref().map(|time| time.0))
}
