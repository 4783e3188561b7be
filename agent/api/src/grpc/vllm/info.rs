//! Facts of the model and of the server, and the load of the group.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lockstep_proto::v1::ClusterStatus;
use lockstep_proto::vllm::grpc::engine::{
    GetLoadsResponse, GetModelInfoResponse, GetServerInfoResponse, HealthCheckResponse, SchedulerLoad,
};
use lockstep_schedule::plan::SamplingDefaults;
use serde_json::{Map, Value};

use crate::model::EngineFacts;
use crate::session::Api;

/// Shortest time over which the rate of tokens is measured.
const RATE_PERIOD: Duration = Duration::from_secs(1);

/// Returns the health of a group. A head that accepts requests is healthy, also while its group forms again: requests
/// wait in the queue meanwhile.
pub(super) fn health(status: &ClusterStatus, hung_for: Option<Duration>) -> HealthCheckResponse {
    let message = match hung_for {
        Some(silent) => format!("the head's task has been stuck for {} s", silent.as_secs()),
        None if status.accepting => String::new(),
        None if status.pending.is_empty() => "the group has not served yet".to_owned(),
        None => status.pending.join("; "),
    };
    HealthCheckResponse { healthy: message.is_empty(), message }
}

pub(super) fn model_info(api: &Api) -> GetModelInfoResponse {
    let (model, text) = (api.model(), api.text());
    let config = api.engine().model_config();
    let id = |name: &str| config[name].as_i64().and_then(|id| i32::try_from(id).ok()).unwrap_or_default();
    GetModelInfoResponse {
        model_path: model.source.clone(),
        is_generation: true,
        max_context_length: text.context_length,
        vocab_size: text.vocab_size,
        supports_vision: false,
        served_model_name: model.name.clone(),
        tokenizer_path: model.source.clone(),
        model_type: config["model_type"].as_str().unwrap_or_default().to_owned(),
        architectures: vec![model.architecture.clone()],
        eos_token_ids: text.eos_token_ids.iter().map(|id| signed(*id)).collect(),
        pad_token_id: id("pad_token_id"),
        bos_token_id: id("bos_token_id"),
        max_req_input_len: signed(text.context_length.saturating_sub(1)),
        default_sampling_params_json: defaults_json(&text.sampling_defaults),
    }
}

/// Returns the options that the model's makers suggest, as a JSON object, or an empty text if there are none.
fn defaults_json(defaults: &SamplingDefaults) -> String {
    let SamplingDefaults { temperature, top_k, top_p, min_p, repetition_penalty } = *defaults;
    let options = [
        ("temperature", temperature.map(|value| value.to_string())),
        ("top_p", top_p.map(|value| value.to_string())),
        ("top_k", top_k.map(|value| value.to_string())),
        ("min_p", min_p.map(|value| value.to_string())),
        ("repetition_penalty", repetition_penalty.map(|value| value.to_string())),
    ];
    // The numbers are written in 32 bits: JSON would show 0.7 as 0.699999988079071.
    let number = |text: String| serde_json::from_str::<Value>(&text).ok();
    let options = options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), number(value?)?)));
    let options: Map<String, Value> = options.collect();
    if options.is_empty() { String::new() } else { Value::Object(options).to_string() }
}

/// What the service has seen of its clients, and the rate of tokens.
pub(super) struct Activity {
    since: Instant,
    /// Time of the last request, in seconds since 1970.
    last_request: Mutex<f64>,
    rate: Mutex<Rate>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { since: Instant::now(), last_request: Mutex::default(), rate: Mutex::default() }
    }
}

impl Activity {
    pub(super) fn note_request(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        *self.last_request.lock().unwrap_or_else(PoisonError::into_inner) = now.as_secs_f64();
    }

    pub(super) fn server_info(&self, api: &Api) -> GetServerInfoResponse {
        let (status, engine) = (api.status().borrow().clone(), api.engine());
        GetServerInfoResponse {
            active_requests: status.running + status.waiting,
            is_paused: status.draining,
            last_receive_timestamp: *self.last_request.lock().unwrap_or_else(PoisonError::into_inner),
            uptime_seconds: self.since.elapsed().as_secs_f64(),
            server_type: "vllm-grpc".into(),
            data_parallel_size: 1,
            block_size: signed(engine.block_size),
            model_dtype: api.model().dtype.clone(),
            max_num_seqs: signed(engine.max_num_seqs),
            constrained_decoding_start: "first_token".into(),
        }
    }

    pub(super) fn loads(&self, api: &Api) -> GetLoadsResponse {
        let status = api.status().borrow().clone();
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let gen_throughput = rate.update(Instant::now(), status.tokens_generated);
        GetLoadsResponse {
            timestamp: jiff::Timestamp::now().to_string(),
            dp_rank_count: 1,
            loads: vec![SchedulerLoad {
                gen_throughput,
                cache_hit_rate: api.metrics().cache_hit_rate(),
                ..load(&status, api.engine())
            }],
            version: status.version,
        }
    }
}

fn load(status: &ClusterStatus, engine: &EngineFacts) -> SchedulerLoad {
    let ratio = |part: u32, whole: u32| if whole == 0 { 0.0 } else { f64::from(part) / f64::from(whole) };
    let tokens = |blocks: u32| signed(blocks.saturating_mul(engine.block_size));
    SchedulerLoad {
        dp_rank: 0,
        num_running_reqs: signed(status.running),
        num_waiting_reqs: signed(status.waiting),
        num_total_reqs: signed(status.running.saturating_add(status.waiting)),
        num_used_tokens: tokens(status.kv_blocks_used),
        max_total_num_tokens: tokens(status.kv_blocks_total),
        token_usage: ratio(status.kv_blocks_used, status.kv_blocks_total),
        gen_throughput: 0.0,
        cache_hit_rate: 0.0,
        utilization: ratio(status.running, engine.max_num_seqs),
        max_running_requests: signed(engine.max_num_seqs),
    }
}

/// Tokens per second between two measurements.
#[derive(Default)]
struct Rate {
    /// Time and number of tokens of the last measurement.
    last: Option<(Instant, u64)>,
    per_second: f64,
}

impl Rate {
    /// Measures again, if the last measurement is old enough. Returns the newest rate.
    fn update(&mut self, now: Instant, tokens: u64) -> f64 {
        match self.last {
            Some((then, _)) if now.duration_since(then) < RATE_PERIOD => return self.per_second,
            Some((then, before)) => {
                self.per_second = tokens.saturating_sub(before) as f64 / now.duration_since(then).as_secs_f64();
            }
            None => {}
        }
        self.last = Some((now, tokens));
        self.per_second
    }
}

/// Returns a number of the wire's type. Numbers beyond it are cut.
fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_accepts_requests_is_healthy() {
        let status = |accepting, pending: &[&str]| ClusterStatus {
            accepting,
            pending: pending.iter().map(|line| (*line).to_owned()).collect(),
            ..Default::default()
        };
        let cases = [
            (health(&status(true, &["rank 1 Lost"]), None), ""),
            (health(&status(false, &[]), None), "the group has not served yet"),
            (health(&status(false, &["rank 0 Loading", "rank 1 Lost"]), None), "rank 0 Loading; rank 1 Lost"),
            (health(&status(true, &[]), Some(Duration::from_secs(20))), "the head's task has been stuck for 20 s"),
        ];
        for (health, message) in cases {
            assert_eq!((health.healthy, health.message.as_str()), (message.is_empty(), message));
        }
    }

    #[test]
    fn suggestions_are_written_as_their_makers_wrote_them() {
        assert_eq!(defaults_json(&SamplingDefaults::default()), "");
        let defaults = SamplingDefaults {
            temperature: Some(0.7),
            top_k: Some(20),
            repetition_penalty: Some(1.0),
            ..SamplingDefaults::default()
        };
        assert_eq!(defaults_json(&defaults), r#"{"temperature":0.7,"top_k":20,"repetition_penalty":1}"#);
    }

    #[test]
    fn a_load_counts_tokens_and_parts() {
        let status =
            ClusterStatus { running: 2, waiting: 3, kv_blocks_used: 5, kv_blocks_total: 20, ..Default::default() };
        let engine = EngineFacts { block_size: 16, max_num_seqs: 8, ..Default::default() };
        let loaded = load(&status, &engine);
        assert_eq!((loaded.num_total_reqs, loaded.num_used_tokens, loaded.max_total_num_tokens), (5, 80, 320));
        assert_eq!((loaded.token_usage, loaded.utilization), (0.25, 0.25));
        assert_eq!(load(&ClusterStatus::default(), &EngineFacts::default()), SchedulerLoad::default());
    }

    #[test]
    fn a_rate_needs_two_measurements() {
        let (start, mut rate) = (Instant::now(), Rate::default());
        let after = |millis| start + Duration::from_millis(millis);
        let measured = [(0, 10), (500, 20), (2000, 50), (2100, 90), (4000, 50)];
        assert_eq!(measured.map(|(millis, tokens)| rate.update(after(millis), tokens)), [0.0, 0.0, 20.0, 20.0, 0.0]);
    }
}
