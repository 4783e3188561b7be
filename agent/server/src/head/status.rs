//! What the head tells of the group: the `Cluster` service, the readiness pages and the metrics all show this.

use lockstep_proto::node as pb;
use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};
use lockstep_schedule::Stats;

use super::group::Group;
use super::member::Place;

/// What the status says beside the group's own state.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub ready: bool,
    pub accepting: bool,
    pub draining: bool,
    pub model_name: &'a str,
    pub stats: Stats,
}

/// The status of the group now.
pub fn of(group: &Group, facts: Facts<'_>) -> ClusterStatus {
    let assignment = &group.config().assignment;
    let ranks: Vec<RankStatus> =
        group.places().iter().enumerate().flat_map(|(node, place)| lines(group, node, place)).collect();
    let mut pending: Vec<String> = ranks.iter().filter(|_| !facts.ready).filter_map(pending).collect();
    if facts.draining {
        pending.push("the head drains: it takes no more requests".into());
    }
    ClusterStatus {
        cluster_id: assignment.cluster_id.clone(),
        epoch: group.epoch(),
        ready: facts.ready,
        accepting: facts.accepting,
        world_size: assignment.world_size,
        tensor_parallel_size: assignment.world_size / assignment.pipeline_parallel_size.max(1),
        pipeline_parallel_size: assignment.pipeline_parallel_size,
        backend: group.config().backend.to_owned(),
        ranks,
        pending,
        running: facts.stats.running as u32,
        waiting: facts.stats.waiting as u32,
        kv_blocks_used: facts.stats.blocks_used,
        kv_blocks_total: facts.stats.blocks_total,
        recoveries: group.recoveries(),
        model: facts.model_name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The status before anything has happened.
pub fn initial(group: &Group, model_name: &str) -> ClusterStatus {
    let stats = Stats::default();
    of(group, Facts { ready: false, accepting: false, draining: false, model_name, stats })
}

fn lines(group: &Group, node: usize, place: &Place) -> Vec<RankStatus> {
    let nobody = pb::Hello::default();
    let hello = place.last_hello.as_ref().unwrap_or(&nobody);
    let member = place.member.as_ref();
    let first = node as u32 * group.config().local_world_size;
    let line = |(local, rank): (usize, &super::member::RankLine)| RankStatus {
        rank: first + local as u32,
        node: node as u32,
        phase: rank.phase.into(),
        host: hello.host.clone(),
        pid: hello.pid,
        address: hello.ring_addresses.get(local).cloned().unwrap_or_default(),
        device: hello.devices.get(local).cloned().unwrap_or_default(),
        bytes_loaded: rank.bytes_loaded,
        bytes_total: rank.bytes_total,
        last_step: member.map_or(0, |member| member.last_step),
        step_micros: member.map_or(0, |member| member.step_micros),
        restarts: place.restarts,
        message: rank.message.clone(),
        incarnation: hello.incarnation,
        bytes_read: member.and_then(|member| member.loaded.as_ref()).map_or(0, |loaded| loaded.bytes_read),
    };
    place.ranks.iter().enumerate().map(line).collect()
}

/// Why a rank does not serve, in one line; `None` if it does.
fn pending(rank: &RankStatus) -> Option<String> {
    let phase = rank.phase();
    if phase == Phase::Serving {
        return None;
    }
    let name = match phase {
        Phase::Loading | Phase::Downloading if rank.bytes_total > 0 => {
            format!("{} {}%", phase.title(), rank.bytes_loaded.saturating_mul(100) / rank.bytes_total)
        }
        _ => phase.title().to_owned(),
    };
    let message = if rank.message.is_empty() { String::new() } else { format!(": {}", rank.message) };
    Some(format!("rank {} (node {}) {name}{message}", rank.rank, rank.node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::testing::{config, loaded, member};

    #[test]
    fn what_is_pending_is_told_rank_by_rank() {
        let mut group = Group::new(config(3));
        let now = std::time::Instant::now();
        group.attach(member(0, 1), now);
        group.attach(member(1, 2), now);
        group.progress(0, &pb::Progress { rank: 0, phase: Phase::Loading.into(), bytes_loaded: 41, bytes_total: 100 });
        group.loaded(1, loaded(7), now);
        let stats = Stats::default();
        let facts = Facts { ready: false, accepting: false, draining: false, model_name: "m", stats };
        let status = of(&group, facts);
        let expected = [
            "rank 0 (node 0) Loading 41%",
            "rank 1 (node 1) Loading: waits for the other ranks",
            "rank 2 (node 2) Pending: has not joined yet",
        ];
        assert_eq!(status.pending, expected);
        assert_eq!((status.world_size, status.ranks[1].host.as_str()), (3, "host-1"));
    }
}
