//! Computes the status of each rank, from the head's report if the head knows the rank, or else from the rank's pod.

use std::time::Duration;

use kube::ResourceExt as _;
use lockstep_proto::v1::{self, Phase};

use crate::heads::{Report, sum_loaded_bytes};
use crate::plan::{Names, RANK};
use crate::pods;
use crate::reconcile::events::FAILED_CREATE;
use crate::reconcile::observation::GroupSeen;
use crate::reconcile::validate::Validated;
use crate::resource::status::RankStatus;

/// Step of the loading progress, in percent.
const PROGRESS_STEP: u64 = 5;
/// Step of estimated times, in seconds.
const ESTIMATE_STEP: u64 = 10;

/// Computes the status of every rank of a group.
pub(super) fn compute_ranks(cluster: &Validated, group: &GroupSeen, names: &Names, serves: bool) -> Vec<RankStatus> {
    let ranks_per_pod = cluster.spec.devices_per_node;
    let ranks = 0..(1 + cluster.spec.workers) * ranks_per_pod;
    ranks.map(|rank| compute_rank(group, names, rank / ranks_per_pod, rank, serves)).collect()
}

/// Computes the status of a rank. `ordinal` is the ordinal of its pod in the group.
fn compute_rank(group: &GroupSeen, names: &Names, ordinal: u32, rank: u32, serves: bool) -> RankStatus {
    let name = if ordinal == 0 { names.head_pod() } else { names.worker_pod(ordinal - 1) };
    let mut status = RankStatus { rank: rank as i32, pod: name.clone(), ..RankStatus::default() };
    let Some(pod) = group.pods.get(&ordinal) else {
        "Scheduling".clone_into(&mut status.phase);
        let refusal = group.events.iter().find(|event| event.reason.as_deref() == Some(FAILED_CREATE));
        let message = refusal.and_then(|event| event.message.clone());
        status.message = message.unwrap_or_else(|| "the pod does not exist yet".into());
        return status;
    };
    pods::kube_node(pod).unwrap_or_default().clone_into(&mut status.node);
    status.restarts = pods::restarts(pod, RANK);
    let live = group.live_report();
    // The head reports that its ranks serve seconds before the kubelet reports their containers as ready.
    if live.is_some_and(|report| report.status.ready) {
        "Serving".clone_into(&mut status.phase);
        return status;
    }
    if let Some(obstacle) = pods::find_rank_obstacle(pod, RANK) {
        obstacle.phase.clone_into(&mut status.phase);
        status.message = obstacle.message;
        return status;
    }
    let reported = live.and_then(|report| report.status.ranks.iter().find(|reported| reported.rank == rank));
    match reported {
        Some(reported) if reported.host == pod.name_any() || reported.host.is_empty() => {
            copy_report(&mut status, reported, live);
        }
        // Another process has the rank. The process in this pod has not connected yet.
        Some(_) => "Starting".clone_into(&mut status.phase),
        None if serves => "Serving".clone_into(&mut status.phase),
        None => {
            "Starting".clone_into(&mut status.phase);
            status.message = group
                .unreachable
                .clone()
                .map(|reason| format!("the head does not answer: {reason}"))
                .unwrap_or_default();
        }
    }
    status
}

/// Copies the head's report of a rank into its status.
fn copy_report(status: &mut RankStatus, reported: &v1::RankStatus, report: Option<&Report>) {
    status.phase = match reported.phase() {
        Phase::Pending => "Starting".into(),
        phase => phase.title().into(),
    };
    status.message.clone_from(&reported.message);
    if [Phase::Loading, Phase::Downloading].contains(&reported.phase()) && reported.bytes_total > 0 {
        let percent = (reported.bytes_loaded.saturating_mul(100) / reported.bytes_total).min(100);
        status.percent_loaded = Some((percent - percent % PROGRESS_STEP) as i32);
        status.bytes_total = Some(i64::try_from(reported.bytes_total).unwrap_or(i64::MAX));
        status.seconds_left = report
            .and_then(|report| estimate_loading_time(report, reported))
            .map(|time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    }
}

/// Estimates the time until the rank's weights are loaded, from the bytes per second that a rank of the group has
/// loaded on average so far.
fn estimate_loading_time(report: &Report, reported: &v1::RankStatus) -> Option<Duration> {
    let (since, before) = report.loading_since?;
    let loaded = sum_loaded_bytes(&report.status);
    let ranks = report.status.ranks.len().max(1) as f64;
    let bytes_per_second = loaded.saturating_sub(before) as f64 / ranks / since.elapsed().as_secs_f64().max(0.1);
    if bytes_per_second < 1.0 {
        return None;
    }
    let seconds = (reported.bytes_total.saturating_sub(reported.bytes_loaded) as f64 / bytes_per_second) as u64;
    Some(Duration::from_secs(seconds.div_ceil(ESTIMATE_STEP).saturating_mul(ESTIMATE_STEP)))
}
