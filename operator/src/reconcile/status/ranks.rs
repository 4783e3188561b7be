//! Each rank: as its head says it where the head knows more than Kubernetes, and as its pod shows it before.

use std::time::Duration;

use kube::ResourceExt as _;
use lockstep_proto::v1::{self, Phase};

use crate::heads::{Report, bytes_loaded};
use crate::plan::{Names, RANK};
use crate::pods;
use crate::reconcile::dereference::GroupSeen;
use crate::reconcile::events::FAILED_CREATE;
use crate::reconcile::validate::Validated;
use crate::resource::status::RankStatus;

/// Progress is written in steps of so many percent.
const PROGRESS_STEP: u64 = 5;
/// Estimates are written in steps of so many seconds.
const ESTIMATE_STEP: u64 = 10;

/// Every rank of the group called `names`.
pub(super) fn of(cluster: &Validated, group: &GroupSeen, names: &Names, serves: bool) -> Vec<RankStatus> {
    let local = cluster.spec.devices_per_node;
    let nodes = 1 + cluster.spec.workers;
    let ranks = (0..nodes).flat_map(|node| (0..local).map(move |device| (node, node * local + device)));
    ranks.map(|(node, rank)| one(group, names, node, rank, serves)).collect()
}

fn one(group: &GroupSeen, names: &Names, node: u32, rank: u32, serves: bool) -> RankStatus {
    let name = if node == 0 { names.head_pod() } else { names.worker_pod(node - 1) };
    let mut status = RankStatus { rank: rank as i32, pod: name.clone(), ..RankStatus::default() };
    let Some(pod) = group.pods.get(&node) else {
        "Scheduling".clone_into(&mut status.phase);
        let refusal = group.events.iter().find(|event| event.reason.as_deref() == Some(FAILED_CREATE));
        let message = refusal.and_then(|event| event.message.clone());
        status.message = message.unwrap_or_else(|| "the pod is not there yet".into());
        return status;
    };
    pods::kube_node(pod).unwrap_or_default().clone_into(&mut status.node);
    status.restarts = pods::restarts(pod, RANK);
    let live = group.live();
    // Kubelets tell of a container seconds after it serves.
    if live.is_some_and(|report| report.status.ready) {
        "Serving".clone_into(&mut status.phase);
        return status;
    }
    if let Some(obstacle) = pods::find_rank_obstacle(pod, RANK) {
        obstacle.phase.clone_into(&mut status.phase);
        status.message = obstacle.message;
        return status;
    }
    let said = live.and_then(|report| report.status.ranks.iter().find(|said| said.rank == rank));
    match said {
        Some(said) if said.host == pod.name_any() || said.host.is_empty() => tell(&mut status, said, live),
        // The rank is another process's: the one in this pod has not come so far.
        Some(_) => "Starting".clone_into(&mut status.phase),
        None if serves => "Serving".clone_into(&mut status.phase),
        None => {
            "Starting".clone_into(&mut status.phase);
            status.message =
                group.unreachable.clone().map(|why| format!("the head does not answer: {why}")).unwrap_or_default();
        }
    }
    status
}

fn tell(status: &mut RankStatus, said: &v1::RankStatus, report: Option<&Report>) {
    status.phase = match said.phase() {
        Phase::Pending => "Starting".into(),
        phase => phase.title().into(),
    };
    status.message.clone_from(&said.message);
    if [Phase::Loading, Phase::Downloading].contains(&said.phase()) && said.bytes_total > 0 {
        let percent = (said.bytes_loaded.saturating_mul(100) / said.bytes_total).min(100);
        status.percent_loaded = Some((percent - percent % PROGRESS_STEP) as i32);
        status.bytes_total = Some(i64::try_from(said.bytes_total).unwrap_or(i64::MAX));
        status.seconds_left =
            report.and_then(|report| left(report, said)).map(|left| i64::try_from(left.as_secs()).unwrap_or(i64::MAX));
    }
}

/// An estimate of the time until the rank's weights are loaded: at the pace of the whole group so far.
fn left(report: &Report, said: &v1::RankStatus) -> Option<Duration> {
    let (since, before) = report.loading_since?;
    let loaded = bytes_loaded(&report.status);
    let ranks = report.status.ranks.len().max(1) as f64;
    let pace = loaded.saturating_sub(before) as f64 / ranks / since.elapsed().as_secs_f64().max(0.1);
    if pace < 1.0 {
        return None;
    }
    let seconds = (said.bytes_total.saturating_sub(said.bytes_loaded) as f64 / pace) as u64;
    Some(Duration::from_secs(seconds.div_ceil(ESTIMATE_STEP).saturating_mul(ESTIMATE_STEP)))
}
