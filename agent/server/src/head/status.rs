//! What the head tells of the group: the `Cluster` service, the readiness pages and the metrics all show this.

use lockstep_proto::node as pb;
use lockstep_proto::v1::{ClusterStatus, ModelInfo, Phase, RankStatus};
use lockstep_schedule::SchedulerStats;

use super::group::Group;
use super::member::Place;
use crate::wire;

/// What the status says beside the group's own state.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub ready: bool,
    pub accepting: bool,
    /// Why no more requests are taken, where that is so.
    pub draining: Option<&'a str>,
    pub model: &'a ModelInfo,
    pub stats: SchedulerStats,
    pub requests: u64,
    pub tokens_generated: u64,
}

/// The status of the group now.
pub fn of(group: &Group, facts: Facts<'_>) -> ClusterStatus {
    let assignment = &group.config().assignment;
    let ranks: Vec<RankStatus> =
        group.places().iter().enumerate().flat_map(|(node, place)| lines(group, node, place)).collect();
    let mut pending: Vec<String> = ranks.iter().filter(|_| !facts.ready).filter_map(pending).collect();
    if let Some(reason) = facts.draining {
        pending.push(format!("the head drains and takes no more requests: {reason}"));
    }
    ClusterStatus {
        cluster_id: assignment.cluster_id.clone(),
        epoch: group.epoch(),
        ready: facts.ready,
        accepting: facts.accepting,
        world_size: assignment.world_size,
        tensor_parallel_size: wire::tensor_size(assignment),
        pipeline_parallel_size: assignment.pipeline_parallel_size,
        backend: group.config().backend.to_owned(),
        ranks,
        pending,
        running: facts.stats.running as u32,
        waiting: facts.stats.waiting as u32,
        kv_blocks_used: facts.stats.blocks_used,
        kv_blocks_total: facts.stats.blocks_total,
        recoveries: group.recoveries(),
        model: facts.model.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        draining: facts.draining.is_some(),
        model_info: Some(facts.model.clone()),
        requests: facts.requests,
        tokens_generated: facts.tokens_generated,
    }
}

/// The status before anything has happened.
pub fn initial(group: &Group, model: &ModelInfo) -> ClusterStatus {
    of(group, Facts::none(model))
}

impl<'a> Facts<'a> {
    fn none(model: &'a ModelInfo) -> Self {
        let stats = SchedulerStats::default();
        Self { ready: false, accepting: false, draining: None, model, stats, requests: 0, tokens_generated: 0 }
    }
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
        let model = ModelInfo { name: "m".into(), parameters: 7, ..Default::default() };
        let status = of(&group, Facts { draining: Some("asked"), ..Facts::none(&model) });
        let expected = [
            "rank 0 (node 0) Loading 41%",
            "rank 1 (node 1) Loading: waits for the other ranks",
            "rank 2 (node 2) Pending: has not joined yet",
            "the head drains and takes no more requests: asked",
        ];
        assert_eq!(status.pending, expected);
        assert_eq!((status.world_size, status.ranks[1].host.as_str()), (3, "host-1"));
        assert!(status.draining && status.model_info.is_some_and(|info| info.parameters == 7));
    }
}
