//! Metrics of the page `/metrics`: their names, units and buckets in one place. `vllm` has the second names of some.
//!
//! Gauges of the group are set from its status at every scrape, so that they cannot lag behind the status. The head
//! reports steps, fan-out and preemptions. The session reports everything about requests.

use std::time::Duration;

use lockstep_proto::names::DEFAULT_MODEL;
use lockstep_proto::v1::ClusterStatus;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

mod group;
mod text;
mod vllm;

use group::GroupGauges;
use vllm::VllmMetrics;

/// Media type of OpenMetrics.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Media type of Prometheus' own text format.
const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Format of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageFormat {
    OpenMetrics,
    /// Prometheus' own text format.
    Prometheus,
}

impl PageFormat {
    /// Chooses the format for a header `Accept`: OpenMetrics for a scraper that knows it.
    pub(crate) fn from_accept(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => CONTENT_TYPE,
            Self::Prometheus => PROMETHEUS_CONTENT_TYPE,
        }
    }
}

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
    vllm: VllmMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Makes the metrics of a model without a name of its own.
    pub fn new() -> Self {
        Self::for_model(DEFAULT_MODEL, 0)
    }

    /// Makes the metrics of the model that clients call `model`. A block of the KV cache holds `block_size` tokens.
    pub fn for_model(model: &str, block_size: u32) -> Self {
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
            vllm: VllmMetrics::new(block_size),
        };
        metrics.register(&mut registry);
        let mut vllm = metrics.vllm.clone();
        vllm.register(model, &metrics);
        metrics.vllm = vllm;
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

    /// Counts a prompt that was looked up in the cache, and the tokens of it that were found.
    pub(crate) fn count_cached(&self, prompt_tokens: u32, cached_tokens: u32) {
        self.vllm.prefix_queries.inc_by(u64::from(prompt_tokens));
        self.cached_tokens.inc_by(u64::from(cached_tokens));
    }

    /// Returns the part of the prompts' tokens that was found in the cache, 0 to 1.
    pub(crate) fn cache_hit_rate(&self) -> f64 {
        let (found, all) = (self.cached_tokens.get(), self.vllm.prefix_queries.get());
        if all == 0 { 0.0 } else { found as f64 / all as f64 }
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
        self.vllm.count_outcome(outcome);
    }

    /// Counts fields of a request that were left out of account.
    pub(crate) fn count_ignored_fields(&self, fields: u64) {
        self.ignored_fields.inc_by(fields);
    }

    /// Records the size of a request that ended, and the time from its arrival to its end.
    pub(crate) fn observe_request(&self, prompt_tokens: u32, answer_tokens: u32, duration: Duration) {
        self.request_duration.observe(duration.as_secs_f64());
        self.vllm.prompt_lengths.observe(prompt_tokens.into());
        self.vllm.answer_lengths.observe(answer_tokens.into());
    }

    /// Returns the whole page in OpenMetrics, with the group's metrics as in `status`.
    ///
    /// # Errors
    /// None in practice: the text format refuses none of these metrics.
    pub fn render(&self, status: &ClusterStatus) -> Result<String, std::fmt::Error> {
        self.render_as(status, PageFormat::OpenMetrics)
    }

    /// Returns the page of [`Self::render`] in a format.
    ///
    /// # Errors
    /// As those of [`Self::render`].
    pub(crate) fn render_as(&self, status: &ClusterStatus, format: PageFormat) -> Result<String, std::fmt::Error> {
        self.group.update(status);
        let mut page = String::new();
        encode_registry(&mut page, &self.registry)?;
        encode_registry(&mut page, self.vllm.update(status))?;
        encode_eof(&mut page)?;
        Ok(match format {
            PageFormat::OpenMetrics => page,
            PageFormat::Prometheus => text::to_prometheus(&page),
        })
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
        let metrics = Metrics::for_model("tiny", 16);
        metrics.observe_step(1, Duration::from_millis(3));
        metrics.observe_fanout(Duration::from_micros(40));
        metrics.count_preemption();
        metrics.count_prompt(7);
        metrics.count_cached(7, 4);
        metrics.observe_token(true, Duration::from_millis(20));
        metrics.observe_token(false, Duration::from_millis(2));
        metrics.count_outcome(Outcome::Stop);
        metrics.count_ignored_fields(3);
        metrics.observe_request(7, 2, Duration::from_secs(1));
        let ranks = vec![RankStatus { rank: 0, step_micros: 1500, restarts: 2, phase: 7, ..Default::default() }];
        let status = ClusterStatus {
            ready: true,
            running: 3,
            waiting: 2,
            kv_blocks_used: 5,
            kv_blocks_total: 10,
            epoch: 4,
            recoveries: 1,
            world_size: 2,
            ranks,
            ..Default::default()
        };
        let page = metrics.render(&status).unwrap();
        assert!(page.ends_with("# EOF\n") && page.contains("# TYPE lockstep_requests counter\n"), "{page}");
        let page = metrics.render_as(&status, PageFormat::Prometheus).unwrap();
        for line in [
            "# TYPE lockstep_requests_total counter",
            "# TYPE vllm:prompt_tokens_total counter",
            "vllm:num_requests_running{model_name=\"tiny\"} 3",
            "vllm:num_requests_waiting{model_name=\"tiny\"} 2",
            "vllm:num_requests_swapped{model_name=\"tiny\"} 0",
            "vllm:kv_cache_usage_perc{model_name=\"tiny\"} 0.5",
            "vllm:gpu_cache_usage_perc{model_name=\"tiny\"} 0.5",
            "vllm:cache_config_info{model_name=\"tiny\",block_size=\"16\",num_gpu_blocks=\"10\"} 1",
            "vllm:prefix_cache_queries_total{model_name=\"tiny\"} 7",
            "vllm:prefix_cache_hits_total{model_name=\"tiny\"} 4",
            "vllm:prompt_tokens_total{model_name=\"tiny\"} 7",
            "vllm:generation_tokens_total{model_name=\"tiny\"} 2",
            "vllm:num_preemptions_total{model_name=\"tiny\"} 1",
            "vllm:request_success_total{model_name=\"tiny\",finished_reason=\"stop\"} 1",
            "vllm:time_to_first_token_seconds_count{model_name=\"tiny\"} 1",
            "vllm:inter_token_latency_seconds_count{model_name=\"tiny\"} 1",
            "vllm:time_per_output_token_seconds_count{model_name=\"tiny\"} 1",
            "vllm:e2e_request_latency_seconds_count{model_name=\"tiny\"} 1",
            "vllm:request_prompt_tokens_sum{model_name=\"tiny\"} 7.0",
            "vllm:request_generation_tokens_sum{model_name=\"tiny\"} 2.0",
            "lockstep_ready 1",
            "lockstep_accepting 0",
            "lockstep_requests_running 3",
            "lockstep_requests_waiting 2",
            "lockstep_kv_blocks_used 5",
            "lockstep_kv_blocks 10",
            "lockstep_epoch 4",
            "lockstep_recoveries_total 1",
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
            "lockstep_rank_restarts_total{rank=\"0\"} 2",
        ] {
            assert!(page.lines().any(|have| have == line), "{line} is missing in\n{page}");
        }
    }
}
