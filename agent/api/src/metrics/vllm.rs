//! The metrics that routers, autoscalers and dashboards read from vLLM, under vLLM's names.
//!
//! A metric that means the same as one of ours is the same object under a second name. `vllm:request_queue_time_seconds`
//! is left out: the head does not tell this crate when a request leaves the queue.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lockstep_proto::v1::ClusterStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Count, Metrics, Outcome};

/// Label of every metric: the name by which clients call the model.
const MODEL_NAME: &str = "model_name";

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    finished_reason: &'static str,
}

/// Sizes of the KV cache, as vLLM tells them: in labels.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CacheLabel {
    block_size: u32,
    num_gpu_blocks: u32,
}

/// Metrics that only vLLM's names have.
#[derive(Clone)]
pub(super) struct VllmMetrics {
    registry: Arc<Registry>,
    cache_usage: Gauge<f64, AtomicU64>,
    cache_config: Family<CacheLabel, Count>,
    /// Tokens in a block of the KV cache. 0: not known.
    block_size: u32,
    pub prefix_queries: Counter,
    pub prompt_lengths: Histogram,
    pub answer_lengths: Histogram,
    finished: Family<ReasonLabel, Counter>,
}

/// Makes buckets of 1, 2 and 5 times the powers of ten, as vLLM does for numbers of tokens.
fn token_histogram() -> Histogram {
    let powers = (0..6).map(|power| 10f64.powi(power));
    Histogram::new(powers.flat_map(|power| [power, 2.0 * power, 5.0 * power]))
}

impl VllmMetrics {
    /// Makes the metrics of the model of that name. [`Self::register`] registers them.
    pub(super) fn new(block_size: u32) -> Self {
        Self {
            registry: Arc::default(),
            cache_usage: Gauge::default(),
            cache_config: Family::default(),
            block_size,
            prefix_queries: Counter::default(),
            prompt_lengths: token_histogram(),
            answer_lengths: token_histogram(),
            finished: Family::default(),
        }
    }

    /// Registers the metrics, together with those of `metrics` that mean the same.
    pub(super) fn register(&mut self, model: &str, metrics: &Metrics) {
        let labels = [(MODEL_NAME.into(), model.to_owned().into())];
        let mut registry = Registry::with_labels(labels.into_iter());
        let group = &metrics.group;
        let mut gauge = |name: &str, help: &str, metric: &Count| registry.register(name, help, metric.clone());
        gauge("vllm:num_requests_running", "Requests being generated", &group.running);
        gauge("vllm:num_requests_waiting", "Requests in the queue", &group.waiting);
        gauge("vllm:num_requests_swapped", "Always 0: no request is swapped out", &Count::default());
        for name in ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"] {
            registry.register(name, "Part of the KV cache in use, 1 is all", self.cache_usage.clone());
        }
        registry.register("vllm:cache_config_info", "Sizes of the KV cache, in labels", self.cache_config.clone());
        let mut counter = |name: &str, help: &str, metric: &Counter| registry.register(name, help, metric.clone());
        counter("vllm:prefix_cache_queries", "Prompt tokens that were looked up", &self.prefix_queries);
        counter("vllm:prefix_cache_hits", "Prompt tokens that were found", &metrics.cached_tokens);
        counter("vllm:prompt_tokens", "Tokens of accepted prompts", &metrics.prompt_tokens);
        counter("vllm:generation_tokens", "Tokens generated", &metrics.generation_tokens);
        counter("vllm:num_preemptions", "Sequences set back to be computed again", &metrics.preemptions);
        registry.register("vllm:request_success", "Requests that ended, by reason", self.finished.clone());
        let mut histogram = |name: &str, help: &str, metric: &Histogram| registry.register(name, help, metric.clone());
        let first = "From a request's arrival to its first token";
        histogram("vllm:time_to_first_token_seconds", first, &metrics.first_token);
        for name in ["vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"] {
            histogram(name, "Between two tokens of a request", &metrics.inter_token);
        }
        let whole = "From a request's arrival to its end";
        histogram("vllm:e2e_request_latency_seconds", whole, &metrics.request_duration);
        histogram("vllm:request_prompt_tokens", "Tokens of a prompt", &self.prompt_lengths);
        histogram("vllm:request_generation_tokens", "Tokens of an answer", &self.answer_lengths);
        self.registry = Arc::new(registry);
    }

    /// Sets the gauges to the group's status.
    pub(super) fn update(&self, status: &ClusterStatus) -> &Registry {
        let (used, all) = (f64::from(status.kv_blocks_used), f64::from(status.kv_blocks_total));
        self.cache_usage.set(if all > 0.0 { used / all } else { 0.0 });
        self.cache_config.clear();
        if status.kv_blocks_total > 0 {
            let label = CacheLabel { block_size: self.block_size, num_gpu_blocks: status.kv_blocks_total };
            self.cache_config.get_or_create(&label).set(1);
        }
        &self.registry
    }

    /// Counts a request that ended after the head had taken it.
    pub(super) fn count_outcome(&self, outcome: Outcome) {
        let finished_reason = match outcome {
            Outcome::Stop => "stop",
            Outcome::Length => "length",
            Outcome::Cancelled | Outcome::SlowReader => "abort",
            Outcome::Unavailable | Outcome::Deadline | Outcome::Internal => "error",
            Outcome::Invalid | Outcome::Full => return,
        };
        self.finished.get_or_create(&ReasonLabel { finished_reason }).inc();
    }
}
