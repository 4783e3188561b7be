//! Pods that no Kubernetes node takes: the cause, parsed from the scheduler's message.

use super::{ClusterFacts, Diagnosis, Reason, Subject, live_pods, pod_name};
use crate::pods;

/// Returns the first pod that the scheduler cannot place, or that a gate holds.
pub(super) fn find_unscheduled_pod(facts: &ClusterFacts<'_>) -> Option<Diagnosis> {
    live_pods(facts).find_map(|pod| {
        let condition = pods::unscheduled_condition(pod)?;
        let message = condition.message.as_deref().unwrap_or_default();
        let (reason, object) = match condition.reason.as_deref() {
            Some("SchedulingGated") => (Reason::Queued, ""),
            _ => classify_message(message),
        };
        let subject = Subject { cluster: facts.cluster, pod: pod_name(pod), object, detail: "" };
        Some(Diagnosis::new(reason, subject).with_evidence(message))
    })
}

/// Returns the reason that the scheduler's `message` gives, and the claim or resource that it names.
fn classify_message(message: &str) -> (Reason, &str) {
    if let Some(claim) = find_missing_claim(message) {
        return (Reason::ClaimMissing, claim);
    }
    if message.contains("unbound immediate PersistentVolumeClaims") {
        return (Reason::VolumeUnbound, "");
    }
    if let Some(rest) = message.split("Insufficient ").nth(1) {
        // A resource's own name may hold dots.
        let resource = rest.split([',', ' ', ';']).next().unwrap_or_default();
        return (Reason::InsufficientResources, resource.trim_end_matches('.'));
    }
    let matching = message.contains("affinity") || message.contains("topology spread");
    if message.contains("untolerated taint") && !message.contains("affinity") {
        return (Reason::TaintNotTolerated, "");
    }
    (if matching { Reason::NoMatchingNode } else { Reason::Unschedulable }, "")
}

/// Returns the claim that the scheduler says it cannot find.
fn find_missing_claim(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("persistentvolumeclaim \"")?;
    let (claim, after) = rest.split_once('"')?;
    after.trim_start().starts_with("not found").then_some(claim)
}
