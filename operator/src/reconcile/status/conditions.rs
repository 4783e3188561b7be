//! Computes the three conditions of a cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::clock::now;
use crate::diagnosis::{self, Diagnosis, Reason, describe_progress, describe_refusal};
use crate::plan::format_count;
use crate::reconcile::ReconcileError;
use crate::reconcile::groups::Steps;
use crate::reconcile::validate::Validated;
use crate::resource::InferenceCluster;
use crate::resource::status::condition::{DEGRADED, PROGRESSING, READY};
use crate::resource::status::{GroupPhase, GroupStatus};
use crate::rollout::Step;

/// Reason of `Progressing` while groups come up.
pub(super) const BRINGING_UP: &str = "BringingUp";

/// Status, reason and message of one condition.
struct Verdict {
    status: bool,
    reason: &'static str,
    message: String,
}

fn verdict(status: bool, reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict { status, reason, message: message.into() }
}

/// Facts from which the conditions are computed, beside the status of the groups.
pub(super) struct Facts<'a> {
    pub steps: &'a Steps,
    /// Fault of the groups, or the state that holds them up.
    pub fault: Option<&'a Diagnosis>,
    pub error: Option<&'a ReconcileError>,
    /// Kinds and names of objects that the cluster needs and that have another owner.
    pub taken_names: &'a [String],
}

/// Computes the conditions of a valid cluster.
pub(super) fn compute_conditions(
    cluster: &Validated,
    object: &InferenceCluster,
    groups: &[GroupStatus],
    facts: &Facts<'_>,
) -> Vec<Condition> {
    let degraded = judge_degraded(cluster, groups, facts);
    let all = [
        (READY, judge_ready(cluster, groups, facts, degraded.as_ref())),
        (PROGRESSING, judge_progressing(groups, facts, degraded.as_ref())),
        (DEGRADED, degraded.unwrap_or_else(|| verdict(false, "AsExpected", "there is no fault"))),
    ];
    all.map(|(kind, verdict)| with_transition_time(object, kind, verdict)).into()
}

/// Returns the conditions of an invalid cluster.
pub(super) fn invalid_conditions(object: &InferenceCluster, message: &str) -> Vec<Condition> {
    [(READY, false), (PROGRESSING, false), (DEGRADED, true)]
        .map(|(kind, status)| {
            with_transition_time(object, kind, verdict(status, Reason::InvalidSpec.as_str(), message))
        })
        .into()
}

/// Returns true if the condition `kind` has `status`.
pub(super) fn has_status(conditions: &[Condition], kind: &str, status: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == status)
}

fn judge_ready(cluster: &Validated, groups: &[GroupStatus], facts: &Facts<'_>, degraded: Option<&Verdict>) -> Verdict {
    let wanted = cluster.spec.replicas;
    if wanted == 0 {
        return diagnosis_verdict(false, &diagnosis::describe_zero_replicas(&cluster.identity.name));
    }
    let Some(progress) = describe_progress(&cluster.identity.name, wanted, groups) else {
        return verdict(true, Reason::Serving.as_str(), format!("{wanted} of {wanted} groups serve"));
    };
    match (degraded, facts.fault) {
        (Some(degraded), _) => verdict(false, degraded.reason, degraded.message.clone()),
        (None, Some(state)) => diagnosis_verdict(false, state),
        (None, None) => diagnosis_verdict(false, &progress),
    }
}

fn diagnosis_verdict(status: bool, diagnosis: &Diagnosis) -> Verdict {
    verdict(status, diagnosis.reason.as_str(), diagnosis.summary())
}

/// Returns the gravest fault of the cluster.
fn judge_degraded(cluster: &Validated, groups: &[GroupStatus], facts: &Facts<'_>) -> Option<Verdict> {
    let name = &cluster.identity.name;
    if let Some(taken_name) = facts.taken_names.first() {
        let message = ReconcileError::NameTaken(taken_name.clone()).to_string();
        return Some(diagnosis_verdict(true, &describe_refusal(Reason::NameTaken, name, &message)));
    }
    if let Some(error) = facts.error {
        let is_taken = matches!(error, ReconcileError::NameTaken(_));
        let reason = if is_taken { Reason::NameTaken } else { Reason::ApiServerRefused };
        return Some(diagnosis_verdict(true, &describe_refusal(reason, name, &error.to_string())));
    }
    if let Some(fault) = facts.fault.filter(|fault| fault.reason.is_fault()) {
        return Some(diagnosis_verdict(true, fault));
    }
    let recovering = groups.iter().find(|group| group.phase == GroupPhase::Recovering)?;
    let progress = describe_progress(name, u32::MAX, std::slice::from_ref(recovering))?;
    Some(diagnosis_verdict(true, &progress))
}

fn judge_progressing(groups: &[GroupStatus], facts: &Facts<'_>, degraded: Option<&Verdict>) -> Verdict {
    let stopped = groups.iter().any(|group| group.phase == GroupPhase::Stopped);
    if let Some(fault) = degraded.filter(|fault| stopped || fault.reason == Reason::NameTaken.as_str()) {
        return verdict(false, fault.reason, fault.message.clone());
    }
    let count = |wanted: &[Step]| facts.steps.values().filter(|step| wanted.contains(step)).count();
    let rolling = count(&[Step::Replace, Step::RestartHead, Step::Drain]);
    if rolling > 0 {
        return verdict(true, "RollingOut", format!("{} drained or replaced", groups_are(rolling)));
    }
    if count(&[Step::Remove]) > 0 {
        return verdict(true, "ScalingDown", format!("{} removed", groups_are(count(&[Step::Remove]))));
    }
    match groups.iter().find(|group| !group.ready && group.phase != GroupPhase::Stopped) {
        Some(group) => verdict(true, BRINGING_UP, describe_group(group)),
        None if facts.error.is_some() => verdict(true, "Retrying", "the API server refused a request; trying again"),
        None => verdict(false, "Settled", "all objects are as the spec asks"),
    }
}

/// Begins a sentence about a number of groups: `1 group is`, `2 groups are`.
fn groups_are(count: usize) -> String {
    let verb = if count == 1 { "is" } else { "are" };
    format!("{} {verb}", format_count(count, "group"))
}

/// Returns the message of a group, or its phase if it has none, after the group's index.
fn describe_group(group: &GroupStatus) -> String {
    let text = if group.message.is_empty() { group.phase.as_str() } else { &group.message };
    format!("group {}: {text}", group.index)
}

/// Makes a condition. Its transition time changes with its status, and not with its reason.
fn with_transition_time(object: &InferenceCluster, kind: &str, verdict: Verdict) -> Condition {
    let status = if verdict.status { "True" } else { "False" };
    let before = object.status.iter().flat_map(|status| &status.conditions).find(|condition| condition.type_ == kind);
    let since = before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: verdict.reason.into(),
        message: verdict.message,
        observed_generation: object.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| Time(now())),
    }
}
