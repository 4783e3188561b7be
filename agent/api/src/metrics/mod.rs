//! Metrics of the page `/metrics`: their names, units and buckets in one place.
//!
//! Gauges of the group are set from its status at every scrape, so that they cannot lag behind the status. The head
//! reports steps, fan-out and preemptions. The session reports everything about requests.

use std::time::Duration;

use lockstep_proto::v1::ClusterStatus;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

mod group;

use group::GroupGauges;

/// Media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Makes buckets from 1 ms to about 65 s, doubling: a first token waits for a prefill, a queue or a recovery.
fn wait_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

/// Makes buckets from 100 µs to about 3 s, doubling, for steps and for the pauses between tokens.
fn step_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 16))
}

/// Makes buckets from 10 µs to about 80 ms, each wider by the fourth root of two, for the time from the head's sending
/// of a plan to the start of its step. The buckets are fine enough to show a median.
fn fanout_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 2f64.powf(0.25), 53))
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RankLabel {
    rank: u32,
}

/// Outcome of a request.
#[derive(Debug, Clone, Copy, Hash, PartialEq, Eq)]
pub enum Outcome {
    /// An end token, a stop token, a stop string, a complete grammar or complete tool calls.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// The client went away, or a drain ended the request.
    Cancelled,
    /// A mistake of the client.
    Invalid,
    /// The queue was full.
    Full,
    Unavailable,
    Deadline,
    /// The client read its answer too slowly.
    SlowReader,
    /// A defect.
    Internal,
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder) -> Result<(), std::fmt::Error> {
        let name = match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Invalid => "invalid",
            Self::Full => "full",
            Self::Unavailable => "unavailable",
            Self::Deadline => "deadline",
            Self::SlowReader => "slow_reader",
            Self::Internal => "internal",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

/// Metrics of a head. Cheap to clone; any thread may call any method.
#[derive(Clone)]
pub struct Metrics {
    registry: std::sync::Arc<Registry>,
    group: GroupGauges,
    requests: Family<OutcomeLabel, Counter>,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    generation_tokens: Counter,
    first_token: Histogram,
    inter_token: Histogram,
    request_duration: Histogram,
    rank_step: Family<RankLabel, Histogram, fn() -> Histogram>,
    fanout: Histogram,
    preemptions: Counter,
    ignored_fields: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("lockstep");
        let group = GroupGauges::register(&mut registry);
        let mut metrics = Self {
            registry: std::sync::Arc::default(),
            group,
            requests: Family::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            first_token: wait_histogram(),
            inter_token: step_histogram(),
            request_duration: wait_histogram(),
            rank_step: Family::new_with_constructor(step_histogram),
            fanout: fanout_histogram(),
            preemptions: Counter::default(),
            ignored_fields: Counter::default(),
        };
        metrics.register(&mut registry);
        metrics.registry = std::sync::Arc::new(registry);
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests that ended, by outcome", self.requests.clone());
        registry.register("prompt_tokens", "Tokens of accepted prompts", self.prompt_tokens.clone());
        registry.register("cached_tokens", "Tokens of prompts found in the cache", self.cached_tokens.clone());
        registry.register("generation_tokens", "Tokens generated", self.generation_tokens.clone());
        registry.register("preemptions", "Sequences set back to be computed again", self.preemptions.clone());
        let ignored = "Fields of requests that nobody knows, left out of account";
        registry.register("ignored_fields", ignored, self.ignored_fields.clone());
        let mut seconds = |name: &str, help: &str, metric: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
        };
        seconds("time_to_first_token", "From a request's arrival to its first token", &self.first_token);
        seconds("inter_token_latency", "Between two tokens of a request", &self.inter_token);
        seconds("request_duration", "From a request's arrival to its end", &self.request_duration);
        seconds("plan_fanout", "From the head's sending a plan to a rank's taking it, on one machine", &self.fanout);
        registry.register_with_unit(
            "rank_step",
            "Duration of a step, by rank; ranks of one node have the slowest one's",
            Unit::Seconds,
            self.rank_step.clone(),
        );
    }

    /// Records the duration of a step for one rank. Called by the head. A node reports one duration, that of its
    /// slowest rank, and the head records it for every rank of the node.
    pub fn observe_step(&self, rank: u32, duration: Duration) {
        self.rank_step.get_or_create(&RankLabel { rank }).observe(duration.as_secs_f64());
    }

    /// Records the time from the head's sending of a plan to the start of its step on a rank, including the time for
    /// which the plan waits behind another step. Called by the head. A node reports the longest time of its ranks. The
    /// time of a node on another machine has no meaning, because each machine has its own clock.
    pub fn observe_fanout(&self, latency: Duration) {
        self.fanout.observe(latency.as_secs_f64());
    }

    /// Counts a running sequence that was preempted. Called by the head.
    pub fn count_preemption(&self) {
        self.preemptions.inc();
    }

    /// Counts the prompt tokens of an accepted request.
    pub(crate) fn count_prompt(&self, tokens: usize) {
        self.prompt_tokens.inc_by(tokens as u64);
    }

    pub(crate) fn count_cached(&self, tokens: u32) {
        self.cached_tokens.inc_by(u64::from(tokens));
    }

    /// Counts a token. `pause` is the time since the request's arrival for a first token, and since the previous token
    /// for any other.
    pub(crate) fn observe_token(&self, first: bool, pause: Duration) {
        self.generation_tokens.inc();
        let histogram = if first { &self.first_token } else { &self.inter_token };
        histogram.observe(pause.as_secs_f64());
    }

    /// Counts a request that ended.
    pub fn count_outcome(&self, outcome: Outcome) {
        self.requests.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts fields of a request that were left out of account.
    pub(crate) fn count_ignored_fields(&self, fields: u64) {
        self.ignored_fields.inc_by(fields);
    }

    pub(crate) fn observe_duration(&self, duration: Duration) {
        self.request_duration.observe(duration.as_secs_f64());
    }

    /// Returns the whole page, with the group's gauges as in `status`.
    ///
    /// # Errors
    /// None in practice: the text format refuses none of these metrics.
    pub fn render(&self, status: &ClusterStatus) -> Result<String, std::fmt::Error> {
        self.group.update(status);
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// Gauge of whole numbers that are never negative.
type Count = Gauge<i64>;

#[cfg(test)]
mod tests {
    use lockstep_proto::v1::RankStatus;

    use super::*;

    #[test]
    fn the_page_has_every_metric() {
        let metrics = Metrics::new();
        metrics.observe_step(1, Duration::from_millis(3));
        metrics.observe_fanout(Duration::from_micros(40));
        metrics.count_preemption();
        metrics.count_prompt(7);
        metrics.count_cached(4);
        metrics.observe_token(true, Duration::from_millis(20));
        metrics.observe_token(false, Duration::from_millis(2));
        metrics.count_outcome(Outcome::Stop);
        metrics.count_ignored_fields(3);
        metrics.observe_duration(Duration::from_secs(1));
        let ranks = vec![RankStatus { rank: 0, step_micros: 1500, restarts: 2, phase: 7, ..Default::default() }];
        let status = ClusterStatus {
            ready: true,
            running: 3,
            waiting: 2,
            kv_blocks_used: 5,
            kv_blocks_total: 9,
            epoch: 4,
            recoveries: 1,
            world_size: 2,
            ranks,
            ..Default::default()
        };
        let page = metrics.render(&status).unwrap();
        for line in [
            "lockstep_ready 1",
            "lockstep_accepting 0",
            "lockstep_requests_running 3",
            "lockstep_requests_waiting 2",
            "lockstep_kv_blocks_used 5",
            "lockstep_kv_blocks 9",
            "lockstep_epoch 4",
            "lockstep_recoveries 1",
            "lockstep_ranks 2",
            "lockstep_ranks_serving 1",
            "lockstep_requests_total{outcome=\"stop\"} 1",
            "lockstep_prompt_tokens_total 7",
            "lockstep_cached_tokens_total 4",
            "lockstep_generation_tokens_total 2",
            "lockstep_preemptions_total 1",
            "lockstep_ignored_fields_total 3",
            "lockstep_time_to_first_token_seconds_count 1",
            "lockstep_inter_token_latency_seconds_count 1",
            "lockstep_request_duration_seconds_count 1",
            "lockstep_plan_fanout_seconds_count 1",
            "lockstep_rank_step_seconds_count{rank=\"1\"} 1",
            "lockstep_rank_last_step_seconds{rank=\"0\"} 0.0015",
            "lockstep_rank_restarts{rank=\"0\"} 2",
        ] {
            assert!(page.lines().any(|have| have == line), "{line} is missing in\n{page}");
        }
    }
}
