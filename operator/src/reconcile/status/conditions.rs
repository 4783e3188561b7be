//! The three conditions, by one function.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::plan::format_count;
use crate::pods::Trouble;
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
    /// The trouble of each group that has one.
    pub troubles: &'a [(i32, Trouble)],
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
    let degraded = degraded(groups, facts);
    let all = [
        (READY, ready(cluster, groups, degraded.as_ref())),
        (PROGRESSING, progressing(groups, facts, degraded.as_ref())),
        (DEGRADED, degraded.unwrap_or_else(|| verdict(false, "AsExpected", "nothing is wrong"))),
    ];
    all.map(|(kind, verdict)| dated(object, kind, verdict)).into()
}

/// The conditions of a cluster of which nothing can be made.
pub(super) fn invalid(object: &InferenceCluster, message: &str) -> Vec<Condition> {
    [(READY, false), (PROGRESSING, false), (DEGRADED, true)]
        .map(|(kind, status)| dated(object, kind, verdict(status, "InvalidSpec", message)))
        .into()
}

/// Whether the condition `kind` has `status`.
pub(super) fn holds(conditions: &[Condition], kind: &str, status: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == status)
}

fn ready(cluster: &Validated, groups: &[GroupStatus], degraded: Option<&Verdict>) -> Verdict {
    let wanted = cluster.spec.replicas as i32;
    if wanted == 0 {
        return verdict(false, "ScaledToZero", "replicas is 0, so nothing serves; raise it");
    }
    let mut waiting = groups.iter().filter(|group| group.index < wanted && !group.ready);
    let Some(first) = waiting.next() else {
        return verdict(true, "Serving", format!("{wanted} of {wanted} groups serve"));
    };
    if let Some(degraded) = degraded {
        return verdict(false, degraded.reason, degraded.message.clone());
    }
    let reason = match first.phase {
        GroupPhase::Pending | GroupPhase::Creating => "Creating",
        GroupPhase::Forming | GroupPhase::Serving => "Loading",
        GroupPhase::Recovering => "Recovering",
        GroupPhase::Draining | GroupPhase::Updating => "Updating",
        GroupPhase::Stopped => "RestartBudgetSpent",
    };
    verdict(false, reason, named(first))
}

/// Something is wrong that was not asked for; the first group's, the gravest first.
fn degraded(groups: &[GroupStatus], facts: &Facts<'_>) -> Option<Verdict> {
    if let Some(name) = facts.taken.first() {
        return Some(verdict(true, "NameTaken", ReconcileError::Taken(name.clone()).to_string()));
    }
    if let Some(error) = facts.error {
        let reason = if matches!(error, ReconcileError::Taken(_)) { "NameTaken" } else { "ApiServerRefused" };
        return Some(verdict(true, reason, error.to_string()));
    }
    if let Some(stopped) = groups.iter().find(|group| group.phase == GroupPhase::Stopped) {
        return Some(verdict(true, "RestartBudgetSpent", named(stopped)));
    }
    if let Some((index, trouble)) = facts.troubles.first() {
        return Some(verdict(true, trouble.reason, format!("group {index}: {}", trouble.message)));
    }
    let recovering = groups.iter().find(|group| group.phase == GroupPhase::Recovering)?;
    Some(verdict(true, "Recovering", named(recovering)))
}

fn progressing(groups: &[GroupStatus], facts: &Facts<'_>, degraded: Option<&Verdict>) -> Verdict {
    let blocked = ["NameTaken", "RestartBudgetSpent"];
    if let Some(why) = degraded.filter(|why| blocked.contains(&why.reason)) {
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
