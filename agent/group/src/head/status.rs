//! The status of the group. The `Cluster` service, the HTTP probes and the metrics show it.

use lockstep_proto::node as pb;
use lockstep_proto::v1::{ClusterStatus, ModelInfo, Phase, RankStatus};
use lockstep_schedule::SchedulerStats;

use super::group::HeadGroup;
use super::member::{NodeSlot, RankProgress};
use crate::wire;

/// Part of the status that the driver knows and the group does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadFacts<'a> {
    /// True while every rank serves and the head does not drain.
    pub ready: bool,
    /// True while the head expects to answer a new request. It stays true while the group forms again.
    pub accepting: bool,
    /// Reason why the head drains. `None` if it does not drain.
    pub draining: Option<&'a str>,
    pub model: &'a ModelInfo,
    pub stats: SchedulerStats,
    pub requests: u64,
    pub tokens_generated: u64,
}

/// Returns the status of the group now.
pub(crate) fn cluster_status(group: &HeadGroup, facts: HeadFacts<'_>) -> ClusterStatus {
    let assignment = &group.config().assignment;
    let ranks: Vec<RankStatus> =
        group.slots().iter().enumerate().flat_map(|(node, slot)| rank_statuses(group, node, slot)).collect();
    let mut pending: Vec<String> = ranks.iter().filter(|_| !facts.ready).filter_map(pending_line).collect();
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

/// Returns the status before any node has joined.
pub(crate) fn initial_status(group: &HeadGroup, model: &ModelInfo) -> ClusterStatus {
    cluster_status(group, HeadFacts::new_initial(model))
}

impl<'a> HeadFacts<'a> {
    fn new_initial(model: &'a ModelInfo) -> Self {
        let stats = SchedulerStats::default();
        Self { ready: false, accepting: false, draining: None, model, stats, requests: 0, tokens_generated: 0 }
    }
}

/// Returns the status of each rank of a node.
fn rank_statuses(group: &HeadGroup, node: usize, slot: &NodeSlot) -> Vec<RankStatus> {
    let unknown = pb::Hello::default();
    let hello = slot.last_hello.as_ref().unwrap_or(&unknown);
    let member = slot.member.as_ref();
    let first_rank = node as u32 * group.config().local_world_size;
    let rank_status = |(local_rank, rank): (usize, &RankProgress)| RankStatus {
        rank: first_rank + local_rank as u32,
        node: node as u32,
        phase: rank.phase.into(),
        host: hello.host.clone(),
        pid: hello.pid,
        address: hello.ring_addresses.get(local_rank).cloned().unwrap_or_default(),
        device: hello.devices.get(local_rank).cloned().unwrap_or_default(),
        bytes_loaded: rank.bytes_loaded,
        bytes_total: rank.bytes_total,
        last_step: member.map_or(0, |member| member.last_step),
        step_micros: member.map_or(0, |member| member.step_micros),
        restarts: slot.restarts,
        message: match member {
            Some(member) if member.is_suspect => {
                "no heartbeat for 0.8 s: it is short of CPU, stopped or cut off".into()
            }
            _ => rank.message.clone(),
        },
        incarnation: hello.incarnation,
        bytes_read: member.and_then(|member| member.loaded.as_ref()).map_or(0, |loaded| loaded.bytes_read),
    };
    slot.ranks.iter().enumerate().map(rank_status).collect()
}

/// Returns a line with the reason why a rank does not serve, or `None` if the rank serves and has nothing to say.
fn pending_line(rank: &RankStatus) -> Option<String> {
    let phase = rank.phase();
    if phase == Phase::Serving && rank.message.is_empty() {
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
    fn the_status_shows_each_pending_rank() {
        let mut group = HeadGroup::new(config(3));
        let now = std::time::Instant::now();
        group.attach(member(0, 1));
        group.attach(member(1, 2));
        group.record_load_progress(
            0,
            &pb::Progress { rank: 0, phase: Phase::Loading.into(), bytes_loaded: 41, bytes_total: 100 },
        );
        group.node_loaded(1, loaded(7), now);
        let model = ModelInfo { name: "m".into(), parameters: 7, ..Default::default() };
        let status = cluster_status(&group, HeadFacts { draining: Some("asked"), ..HeadFacts::new_initial(&model) });
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
