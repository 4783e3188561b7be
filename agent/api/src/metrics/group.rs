//! Gauges and counters of the group, set from its status at every scrape.

use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_proto::v1::{ClusterStatus, Phase};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Count, RankLabel};

#[derive(Clone, Default)]
pub(crate) struct GroupGauges {
    ready: Count,
    accepting: Count,
    pub(super) running: Count,
    pub(super) waiting: Count,
    blocks_used: Count,
    blocks: Count,
    epoch: Count,
    recoveries: Counter,
    ranks: Count,
    ranks_serving: Count,
    last_step: Family<RankLabel, Gauge<f64, AtomicU64>>,
    restarts: Family<RankLabel, Counter>,
    loaded: Family<RankLabel, Count>,
}

impl GroupGauges {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let gauges = Self::default();
        let mut gauge = |name: &str, help: &str, metric: &Count| registry.register(name, help, metric.clone());
        gauge("ready", "1 while every rank serves and the head does not drain", &gauges.ready);
        gauge("accepting", "1 while the head expects to answer a new request", &gauges.accepting);
        gauge("requests_running", "Requests being generated", &gauges.running);
        gauge("requests_waiting", "Requests in the queue", &gauges.waiting);
        gauge("kv_blocks_used", "Blocks of the KV cache in use", &gauges.blocks_used);
        gauge("kv_blocks", "Blocks of the KV cache", &gauges.blocks);
        gauge("epoch", "Number of the group's current formation", &gauges.epoch);
        gauge("ranks", "Ranks in the group", &gauges.ranks);
        gauge("ranks_serving", "Ranks that serve", &gauges.ranks_serving);
        let failed = "Epochs that failed after all ranks had joined";
        registry.register("recoveries", failed, gauges.recoveries.clone());
        registry.register_with_unit(
            "rank_last_step",
            "Duration of the last step, by rank",
            Unit::Seconds,
            gauges.last_step.clone(),
        );
        registry.register("rank_restarts", "Times that a rank was lost", gauges.restarts.clone());
        registry.register_with_unit(
            "rank_loaded",
            "Weights loaded, or downloaded while the node still downloads, by rank",
            Unit::Bytes,
            gauges.loaded.clone(),
        );
        gauges
    }

    /// Sets the metrics to the group's status. Counts beyond 63 bits are cut.
    pub(crate) fn update(&self, status: &ClusterStatus) {
        let count = |gauge: &Count, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        count(&self.ready, status.ready.into());
        count(&self.accepting, status.accepting.into());
        count(&self.running, status.running.into());
        count(&self.waiting, status.waiting.into());
        count(&self.blocks_used, status.kv_blocks_used.into());
        count(&self.blocks, status.kv_blocks_total.into());
        count(&self.epoch, status.epoch);
        set_counter(&self.recoveries, status.recoveries);
        count(&self.ranks, status.world_size.into());
        let serving = status.ranks.iter().filter(|rank| rank.phase() == Phase::Serving).count();
        count(&self.ranks_serving, serving as u64);
        for rank in &status.ranks {
            let label = RankLabel { rank: rank.rank };
            self.last_step.get_or_create(&label).set(rank.step_micros as f64 / 1e6);
            set_counter(&self.restarts.get_or_create(&label), rank.restarts);
            count(&self.loaded.get_or_create(&label), rank.bytes_loaded);
        }
    }
}

/// Sets a counter to a number that the head counts itself.
fn set_counter(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}
