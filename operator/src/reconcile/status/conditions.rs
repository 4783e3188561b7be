//! The three conditions, by one function.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::diagnosis::{self, Diagnosis, Reason, describe_progress, describe_refusal};
use crate::plan::format_count;
use crate::reconcile::groups::Steps;
use crate::reconcile::validate::Validated;
use crate::reconcile::{ReconcileError, now};
use crate::resource::InferenceCluster;
use crate::resource::status::condition::{DEGRADED, PROGRESSING, READY};
use crate::resource::status::{GroupPhase, GroupStatus};
use crate::rollout::Step;

/// Reason of a cluster that progresses because groups of it do not serve yet.
pub(super) const BRINGING_UP: &str = "BringingUp";

/// A status, a reason and words for one condition.
struct Verdict {
    status: bool,
    reason: &'static str,
    message: String,
}

fn verdict(status: bool, reason: &'static str, message: impl Into<String>) -> Verdict {
    Verdict { status, reason, message: message.into() }
}

/// What the conditions are made from, beside the groups.
pub(super) struct Facts<'a> {
    pub steps: &'a Steps,
    /// Fault of the groups, or the state that holds them up.
    pub fault: Option<&'a Diagnosis>,
    pub error: Option<&'a ReconcileError>,
    /// Names that another owner has.
    pub taken: &'a [String],
}

/// The conditions of a cluster with these groups.
pub(super) fn of(
    cluster: &Validated,
    object: &InferenceCluster,
    groups: &[GroupStatus],
    facts: &Facts<'_>,
) -> Vec<Condition> {
    let degraded = degraded(cluster, groups, facts);
    let all = [
        (READY, ready(cluster, groups, facts, degraded.as_ref())),
        (PROGRESSING, progressing(groups, facts, degraded.as_ref())),
        (DEGRADED, degraded.unwrap_or_else(|| verdict(false, "AsExpected", "nothing is wrong"))),
    ];
    all.map(|(kind, verdict)| dated(object, kind, verdict)).into()
}

/// The conditions of a cluster of which nothing can be made.
pub(super) fn invalid(object: &InferenceCluster, message: &str) -> Vec<Condition> {
    [(READY, false), (PROGRESSING, false), (DEGRADED, true)]
        .map(|(kind, status)| dated(object, kind, verdict(status, Reason::InvalidSpec.as_str(), message)))
        .into()
}

/// Whether the condition `kind` has `status`.
pub(super) fn holds(conditions: &[Condition], kind: &str, status: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == status)
}

fn ready(cluster: &Validated, groups: &[GroupStatus], facts: &Facts<'_>, degraded: Option<&Verdict>) -> Verdict {
    let wanted = cluster.spec.replicas;
    if wanted == 0 {
        return diagnosed(false, &diagnosis::describe_zero_replicas(&cluster.identity.name));
    }
    let Some(progress) = describe_progress(&cluster.identity.name, wanted, groups) else {
        return verdict(true, Reason::Serving.as_str(), format!("{wanted} of {wanted} groups serve"));
    };
    match (degraded, facts.fault) {
        (Some(degraded), _) => verdict(false, degraded.reason, degraded.message.clone()),
        (None, Some(state)) => diagnosed(false, state),
        (None, None) => diagnosed(false, &progress),
    }
}

fn diagnosed(status: bool, diagnosis: &Diagnosis) -> Verdict {
    verdict(status, diagnosis.reason.as_str(), diagnosis.summary())
}

/// Returns the gravest fault, which nobody asked for.
fn degraded(cluster: &Validated, groups: &[GroupStatus], facts: &Facts<'_>) -> Option<Verdict> {
    let name = &cluster.identity.name;
    if let Some(taken) = facts.taken.first() {
        let message = ReconcileError::Taken(taken.clone()).to_string();
        return Some(diagnosed(true, &describe_refusal(Reason::NameTaken, name, &message)));
    }
    if let Some(error) = facts.error {
        let taken = matches!(error, ReconcileError::Taken(_));
        let reason = if taken { Reason::NameTaken } else { Reason::ApiServerRefused };
        return Some(diagnosed(true, &describe_refusal(reason, name, &error.to_string())));
    }
    if let Some(fault) = facts.fault.filter(|fault| fault.reason.is_fault()) {
        return Some(diagnosed(true, fault));
    }
    let recovering = groups.iter().find(|group| group.phase == GroupPhase::Recovering)?;
    let progress = describe_progress(name, u32::MAX, std::slice::from_ref(recovering))?;
    Some(diagnosed(true, &progress))
}

fn progressing(groups: &[GroupStatus], facts: &Facts<'_>, degraded: Option<&Verdict>) -> Verdict {
    let stopped = groups.iter().any(|group| group.phase == GroupPhase::Stopped);
    if let Some(why) = degraded.filter(|why| stopped || why.reason == Reason::NameTaken.as_str()) {
        return verdict(false, why.reason, why.message.clone());
    }
    let doing = |wanted: &[Step]| facts.steps.values().filter(|step| wanted.contains(step)).count();
    let rolling = doing(&[Step::Replace, Step::RestartHead, Step::Drain]);
    if rolling > 0 {
        return verdict(true, "RollingOut", format!("{} drained or replaced", are(rolling)));
    }
    if doing(&[Step::Remove]) > 0 {
        return verdict(true, "ScalingDown", format!("{} removed", are(doing(&[Step::Remove]))));
    }
    match groups.iter().find(|group| !group.ready && group.phase != GroupPhase::Stopped) {
        Some(group) => verdict(true, BRINGING_UP, named(group)),
        None if facts.error.is_some() => verdict(true, "Retrying", "the API server refused something; trying again"),
        None => verdict(false, "Settled", "everything is as the spec asks"),
    }
}

fn are(count: usize) -> String {
    let verb = if count == 1 { "is" } else { "are" };
    format!("{} {verb}", format_count(count, "group"))
}

fn named(group: &GroupStatus) -> String {
    let words = if group.message.is_empty() { group.phase.as_str() } else { &group.message };
    format!("group {}: {words}", group.index)
}

/// With the time of its last transition: that of the status, not of the reason.
fn dated(object: &InferenceCluster, kind: &str, verdict: Verdict) -> Condition {
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
