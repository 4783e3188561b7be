//! Pods that Kubernetes refuses to make: quotas, Pod Security, admission. Told by events of StatefulSets alone.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;

use super::{Diagnosis, Observed, name, pod_name};
use crate::plan::Names;

/// The newest refusal of a pod that is still missing.
pub(super) fn refused(seen: &Observed<'_>) -> Option<Diagnosis> {
    let refusals = seen.events.iter().filter(|event| event.reason.as_deref() == Some("FailedCreate"));
    let event = refusals.filter(|event| misses_pods(seen, event)).max_by_key(|event| at(event))?;
    let set = event.involved_object.name.as_deref().unwrap_or_default();
    let said = event.message.as_deref().unwrap_or_default();
    Some(reason(set, said).with(said))
}

fn reason(set: &str, said: &str) -> Diagnosis {
    if said.contains("exceeded quota") || said.contains("failed quota") {
        let remedy = "raise the ResourceQuota (kubectl describe quota), ask for less in spec.resources, or lower \
                      spec.workers or spec.replicas";
        return Diagnosis::new(
            "QuotaExceeded",
            format!("the namespace's quota has no room for the pods of {set}"),
            remedy,
        );
    }
    if said.contains("violates PodSecurity") {
        let remedy = "take out of spec.template, spec.head and spec.worker what the message names, or relax the \
                      namespace's label pod-security.kubernetes.io/enforce";
        return Diagnosis::new("PodSecurityRefused", format!("Pod Security refuses the pods of {set}"), remedy);
    }
    let remedy = "do what the message says, or ask who owns the admission policy that it names";
    Diagnosis::new("PodsRefused", format!("Kubernetes refuses to make the pods of {set}"), remedy)
}

/// Whether the event's set is one of the cluster's and has fewer pods than it should.
fn misses_pods(seen: &Observed<'_>, event: &Event) -> bool {
    let set = event.involved_object.name.as_deref().unwrap_or_default();
    let spec = &seen.cluster.spec;
    let sets = (0..spec.replicas).flat_map(|group| {
        let names = Names::new(&name(seen), group);
        [(names.head_set(), 1), (names.worker_set(), spec.workers)]
    });
    let Some((_, wanted)) = sets.into_iter().find(|(name, _)| name == set) else { return false };
    let prefix = format!("{set}-");
    let have = seen.pods.iter().filter(|pod| pod_name(pod).starts_with(&prefix)).count();
    have < wanted as usize
}

/// When the event was last seen.
pub(super) fn at(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().or(event.metadata.creation_timestamp.as_ref()).map(|time| time.0);
    series.max(last).max(event.event_time.as_ref().map(|time| time.0))
}
