//! Groups as their status shows them: stopped ones, and those that are on their way.

use super::containers::ContainerEnd;
use super::{ClusterFacts, Diagnosis, Reason, Subject};
use crate::resource::status::{GroupPhase, GroupStatus};

/// Returns the first group whose restart budget is spent, with the cause of its crashes where that is known.
pub(super) fn find_stopped_group(facts: &ClusterFacts<'_>) -> Option<Diagnosis> {
    let group = facts.groups.iter().find(|group| group.phase == GroupPhase::Stopped)?;
    let stopped = format!(
        "the operator stopped group {}: its restart budget of {} is spent",
        group.index, facts.spec.restart_budget
    );
    let crash = group.crashes.iter().max_by_key(|crash| crash.restarts);
    let cause = crash.map(|crash| {
        let end = ContainerEnd {
            cluster: facts.cluster,
            pod: &crash.pod,
            container: &crash.container,
            exit_code: crash.exit_code,
            reason: &crash.reason,
            log: &crash.log,
            restarts: crash.restarts,
        };
        end.diagnose()
    });
    let spent = |detail: &str| {
        Diagnosis::new(Reason::RestartBudgetSpent, Subject { cluster: facts.cluster, detail, ..Subject::default() })
    };
    Some(match cause {
        Some(mut cause) if cause.reason != Reason::CrashLoop => {
            cause.message = format!("{}; {stopped}", cause.message);
            cause
        }
        Some(cause) => Diagnosis { evidence: cause.evidence, ..spent(&format!("{stopped}; {}", cause.message)) },
        None => spent(&stopped),
    })
}

/// Returns the state of the first of the `wanted` groups that does not serve: nothing is known to be wrong with it.
#[must_use]
pub fn describe_progress(cluster: &str, wanted: u32, groups: &[GroupStatus]) -> Option<Diagnosis> {
    let waits = |group: &&GroupStatus| !group.ready && u32::try_from(group.index).is_ok_and(|index| index < wanted);
    let group = groups.iter().find(waits)?;
    let reason = match group.phase {
        GroupPhase::Pending => Reason::WaitingForOtherGroups,
        GroupPhase::Creating => Reason::Creating,
        GroupPhase::Forming | GroupPhase::Serving => Reason::Loading,
        GroupPhase::Recovering => Reason::Recovering,
        GroupPhase::Draining => Reason::Draining,
        GroupPhase::Updating => Reason::Updating,
        GroupPhase::Stopped => Reason::RestartBudgetSpent,
    };
    let detail = describe_ranks(group);
    let subject = Subject { cluster, pod: "", object: &group.index.to_string(), detail: &detail };
    Some(Diagnosis::new(reason, subject).with_evidence(group.message.clone()))
}

/// Returns the number of ranks that do not serve yet, and the progress of the slowest of them.
fn describe_ranks(group: &GroupStatus) -> String {
    let behind = || group.ranks.iter().filter(|rank| rank.phase != "Serving");
    let loads = behind().filter(|rank| rank.phase != "Lost").min_by_key(|rank| rank.percent_loaded.unwrap_or(0));
    let Some(slowest) = loads.or_else(|| behind().next()) else { return "waits until its ranks have joined".into() };
    let loaded = slowest.percent_loaded.map_or(String::new(), |percent| format!(", {percent}%"));
    let time_left = slowest.seconds_left.map_or(String::new(), |seconds| format!(", about {seconds} s left"));
    format!(
        "waits for {} of {} ranks; the slowest is rank {} in {} ({}{loaded}{time_left})",
        behind().count(),
        group.ranks.len(),
        slowest.rank,
        slowest.pod,
        slowest.phase
    )
}
