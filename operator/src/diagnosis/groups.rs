//! What the operator tells of groups: stopped ones, and those that are on their way.

use super::containers::Ended;
use super::{Diagnosis, Observed, name, status};
use crate::resource::status::{GroupPhase, GroupStatus};

/// A group whose restart budget is spent: why it died, where that is known.
pub(super) fn stopped(seen: &Observed<'_>) -> Option<Diagnosis> {
    let group = status(seen)?.groups.iter().find(|group| group.phase == GroupPhase::Stopped)?;
    let crash = group.crashes.iter().max_by_key(|crash| crash.restarts);
    let cause = crash.map(|crash| {
        let ended = Ended {
            cluster: &name(seen),
            pod: &crash.pod,
            container: &crash.container,
            code: crash.exit_code,
            reason: &crash.reason,
            said: &crash.log,
            restarts: crash.restarts,
        };
        ended.diagnosis()
    });
    let said = format!(
        "group {} was stopped, for its restart budget of {} is spent",
        group.index, seen.cluster.spec.restart_budget
    );
    Some(match cause {
        Some(mut cause) if cause.reason != "CrashLoop" => {
            cause.message = format!("{}; {said}", cause.message);
            cause
        }
        Some(cause) => Diagnosis {
            reason: "RestartBudgetSpent",
            message: format!("{said}; {}", cause.message),
            remedy: "change the spec to what its last words ask for: the group is then started again".into(),
            evidence: cause.evidence,
        },
        None => Diagnosis::new("RestartBudgetSpent", said, "change the spec: the group is then started again"),
    })
}

/// A group that changes, loads or forms: nothing is wrong yet.
pub(super) fn on_the_way(seen: &Observed<'_>) -> Option<Diagnosis> {
    let groups = &status(seen)?.groups;
    let group = groups.iter().find(|group| !group.ready)?;
    let index = group.index;
    let of = |reason, what: String| {
        let remedy = format!("wait; watch it with: lockstep status {} --watch", name(seen));
        Some(Diagnosis::new(reason, what, remedy).with(group.message.clone()))
    };
    match group.phase {
        GroupPhase::Draining => {
            of("Draining", format!("group {index} finishes the requests that it has, and then goes"))
        }
        GroupPhase::Updating => of("Updating", format!("group {index} is replaced by one of the new spec")),
        GroupPhase::Pending => {
            of("WaitingForOtherGroups", format!("group {index} waits until those before it are scheduled"))
        }
        _ if !group.ranks.is_empty() => loading(group).and_then(|what| of("Loading", what)).or_else(|| lost(group)),
        GroupPhase::Creating => of("Creating", format!("the pods of group {index} are being started")),
        GroupPhase::Forming => of("Forming", format!("the ranks of group {index} join")),
        GroupPhase::Recovering => of("Recovering", format!("group {index} lost a rank and forms again")),
        GroupPhase::Serving | GroupPhase::Stopped => None,
    }
}

/// How far the slowest rank is that is still underway.
fn loading(group: &GroupStatus) -> Option<String> {
    let behind = group.ranks.iter().filter(|rank| !["Serving", "Lost"].contains(&rank.phase.as_str()));
    let slowest = behind.clone().min_by_key(|rank| rank.percent_loaded.unwrap_or(0))?;
    let loaded = slowest.percent_loaded.map_or(String::new(), |percent| format!(", {percent}% loaded"));
    let left = slowest.seconds_left.map_or(String::new(), |left| format!(", about {left} s left"));
    Some(format!(
        "group {} waits for {} of {} ranks; the slowest is rank {} ({}{loaded}{left})",
        group.index,
        behind.count(),
        group.ranks.len(),
        slowest.rank,
        slowest.phase
    ))
}

fn lost(group: &GroupStatus) -> Option<Diagnosis> {
    let rank = group.ranks.iter().find(|rank| rank.phase == "Lost")?;
    let message = format!("group {} lost rank {} ({})", group.index, rank.rank, rank.pod);
    let remedy =
        format!("the operator replaces it; where it does not come back, see kubectl describe pod {}", rank.pod);
    Some(Diagnosis::new("RankLost", message, remedy).with(rank.message.clone()))
}
