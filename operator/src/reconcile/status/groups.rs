//! Computes the status of each group: its phase, and the reason why it does not serve.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{find_fault, ranks};
use crate::clock::now;
use crate::plan::{Names, world_size};
use crate::pods;
use crate::reconcile::build::revision_of;
use crate::reconcile::groups::{last_status, serves};
use crate::reconcile::observation::GroupSeen;
use crate::reconcile::validate::Validated;
use crate::resource::InferenceCluster;
use crate::resource::status::{Crash, GroupPhase, GroupStatus, RankStatus};
use crate::rollout::Step;

/// Computes the status of the group at `index`, for which `step` was decided.
pub(super) fn compute_group(
    cluster: &Validated,
    object: &InferenceCluster,
    group: Option<&GroupSeen>,
    index: u32,
    step: Step,
) -> GroupStatus {
    let before = last_status(object, index);
    let names = Names::new(&cluster.identity.name, index);
    let empty = GroupSeen::default();
    let group = group.unwrap_or(&empty);
    let ready = step != Step::Stop && serves(cluster, group);
    let report = group.report.as_ref();
    let live = group.live_report();
    let accepting = live.map_or(ready, |report| report.status.accepting);
    let ranks = match step {
        Step::Wait | Step::Stop => Vec::new(),
        _ => ranks::compute_ranks(cluster, group, &names, ready),
    };
    let known = |live: Option<u64>, before: Option<i64>| {
        live.map(|now| i64::try_from(now).unwrap_or(i64::MAX)).or(before).unwrap_or_default()
    };
    let mut status = GroupStatus {
        index: index as i32,
        ready,
        accepting,
        revision: group.head_set.as_deref().and_then(revision_of).unwrap_or_default().to_owned(),
        epoch: known(report.map(|report| report.status.epoch), before.map(|before| before.epoch)),
        recoveries: known(report.map(|report| report.status.recoveries), before.map(|before| before.recoveries)),
        serving_ranks: ranks.iter().filter(|rank| rank.phase == "Serving").count() as i32,
        world_size: world_size(&cluster.spec) as i32,
        crashes: collect_crashes(group, before),
        stopped_at_generation: (step == Step::Stop).then_some(stopped_at(cluster, before)),
        draining_since: draining_since(step, before, live.is_some_and(|report| report.status.draining)),
        ranks,
        ..GroupStatus::default()
    };
    status.phase = choose_phase(&status, step, before, live.is_some_and(|report| report.status.accepting));
    status.message = explain(cluster, group, &status, before);
    status
}

/// Returns the generation at which the group was stopped.
fn stopped_at(cluster: &Validated, before: Option<&GroupStatus>) -> i64 {
    before.and_then(|before| before.stopped_at_generation).unwrap_or(cluster.generation)
}

/// Returns the time at which the drain of a group began.
fn draining_since(step: Step, before: Option<&GroupStatus>, draining: bool) -> Option<Time> {
    let began = before.and_then(|before| before.draining_since.clone());
    match step {
        Step::Drain => began.or_else(|| Some(Time(now()))),
        Step::Replace | Step::Remove if draining => began,
        _ => None,
    }
}

/// Returns the last crash of each container: the one that the pod shows now, or else the one in the last status.
fn collect_crashes(group: &GroupSeen, before: Option<&GroupStatus>) -> Vec<Crash> {
    let mut now: Vec<Crash> = group.pods.values().flat_map(|pod| pods::list_crashes(pod)).collect();
    let kept = before.map(|before| before.crashes.clone()).unwrap_or_default();
    for crash in kept {
        if !now.iter().any(|current| current.pod == crash.pod && current.container == crash.container) {
            now.push(crash);
        }
    }
    now.sort_by(|a, b| (&a.pod, &a.container).cmp(&(&b.pod, &b.container)));
    now
}

fn choose_phase(status: &GroupStatus, step: Step, before: Option<&GroupStatus>, accepting: bool) -> GroupPhase {
    let served = before.is_some_and(|before| matches!(before.phase, GroupPhase::Serving | GroupPhase::Recovering));
    match step {
        Step::Wait => GroupPhase::Pending,
        Step::Stop => GroupPhase::Stopped,
        Step::Drain | Step::Remove => GroupPhase::Draining,
        Step::Replace | Step::RestartHead => GroupPhase::Updating,
        Step::Create => GroupPhase::Creating,
        Step::Keep if status.ready => GroupPhase::Serving,
        Step::Keep if accepting || served => GroupPhase::Recovering,
        Step::Keep if status.ranks.iter().all(|rank| !rank.node.is_empty()) => GroupPhase::Forming,
        Step::Keep => GroupPhase::Creating,
    }
}

/// Explains why the group does not serve.
fn explain(cluster: &Validated, group: &GroupSeen, status: &GroupStatus, before: Option<&GroupStatus>) -> String {
    match status.phase {
        GroupPhase::Serving => String::new(),
        GroupPhase::Pending => "waits until all pods of the groups before it have a Kubernetes node".into(),
        GroupPhase::Stopped => {
            let evidence = status.crashes.iter().max_by_key(|crash| crash.restarts);
            let evidence = evidence.map(|crash| {
                format!(
                    "{}/{} ended with exit code {}: {}",
                    crash.pod,
                    crash.container,
                    crash.exit_code,
                    pods::log_tail(&crash.log, 200)
                )
            });
            format!(
                "stopped, because the restart budget of {} is spent; change the spec to try again. {}",
                cluster.spec.restart_budget,
                evidence.or_else(|| before.map(|before| before.message.clone())).unwrap_or_default()
            )
        }
        GroupPhase::Draining => "finishes its requests".into(),
        _ => explain_progress(cluster, group, status),
    }
}

/// Explains what a group that comes up waits for: its fault, or else the first pending entry of the head's report, or
/// else the first rank that does not serve.
fn explain_progress(cluster: &Validated, group: &GroupSeen, status: &GroupStatus) -> String {
    let fault = find_fault(cluster, std::iter::once(group), &[]);
    if let Some(fault) = fault {
        return fault.summary();
    }
    if let Some(pending) = group.live_report().and_then(|report| report.status.pending.first()) {
        return pending.clone();
    }
    let first = status.ranks.iter().find(|rank| rank.phase != "Serving");
    let describe = |rank: &RankStatus| {
        let share = rank.percent_loaded.map(|percent| format!(" {percent}%")).unwrap_or_default();
        let detail = if rank.message.is_empty() { String::new() } else { format!(": {}", rank.message) };
        format!("rank {} {}{share}{detail}", rank.rank, rank.phase)
    };
    first.map(describe).or_else(|| group.unreachable.clone()).unwrap_or_default()
}
