//! Probe port of a node: `/startup`, `/live`, `/ready`, `/head` and `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use lockstep_api::{METRICS_CONTENT_TYPE, Protocol, serve_connections};
use lockstep_proto::names::env;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::{Health, ProbeResult};
use super::rank::RankCounters;

/// Time between two checks while a `/startup` request is held open.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// State that the probes read.
#[derive(Clone)]
struct ProbeState {
    health: Arc<Health>,
    ranks: Arc<Vec<Arc<RankCounters>>>,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RankLabel {
    rank: u32,
}

/// Serves the probes until the process ends.
///
/// # Errors
/// Fails if the port cannot be bound.
pub(super) async fn start(
    address: SocketAddr,
    health: Arc<Health>,
    ranks: Vec<Arc<RankCounters>>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await;
    let listener = listener
        .with_context(|| format!("bind the probe port {address}: choose another port with {}", env::PROBE_PORT))?;
    let router = Router::new()
        .route("/startup", get(startup))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/head", get(head))
        .route("/metrics", get(metrics))
        .with_state(ProbeState { health, ranks: Arc::new(ranks) });
    tokio::spawn(serve_connections(listener, router, Protocol::Http, CancellationToken::new()));
    Ok(())
}

/// Answers once the node has loaded or stalled. Holds the request open while the node loads.
async fn startup(State(probed): State<ProbeState>) -> Response {
    loop {
        if let Some(verdict) = probed.health.check_started(Instant::now()) {
            return probe_response(&probed, verdict);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn live(State(probed): State<ProbeState>) -> Response {
    probe_response(&probed, probed.health.check_alive(Instant::now()))
}

async fn ready(State(probed): State<ProbeState>) -> Response {
    probe_response(&probed, probed.health.check_ready(Instant::now()))
}

/// Tells the operator what this node hears of its head. Always 200: an answer says that the node runs, and no more.
async fn head(State(probed): State<ProbeState>) -> Response {
    let contact = probed.health.head_contact(Instant::now());
    let silent_ms = u64::try_from(contact.silent_for.as_millis()).unwrap_or(u64::MAX);
    Json(json!({"attached": contact.attached, "silent_ms": silent_ms})).into_response()
}

/// Returns 200 or 503 with the reason for it and each rank's phase.
fn probe_response(probed: &ProbeState, verdict: ProbeResult) -> Response {
    let rank = |rank: super::health::RankHealth| {
        let mut line = json!({"rank": rank.rank, "phase": rank.phase.title().to_ascii_lowercase()});
        if rank.bytes_total > 0 && rank.bytes_loaded < rank.bytes_total {
            line["loaded"] = json!(format!("{}%", rank.bytes_loaded.saturating_mul(100) / rank.bytes_total));
        }
        line
    };
    let status = if verdict.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let ranks: Vec<Value> = probed.health.ranks().into_iter().map(rank).collect();
    let pending: Vec<String> = verdict.err().into_iter().collect();
    let body = json!({
        "ok": status == StatusCode::OK, "epoch": probed.health.epoch(), "pending": pending, "ranks": ranks,
    });
    (status, Json(body)).into_response()
}

async fn metrics(State(probed): State<ProbeState>) -> Response {
    match metrics_page(&probed) {
        Ok(page) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Returns the metrics in the text format of Prometheus.
fn metrics_page(probed: &ProbeState) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("lockstep_node");
    let (ready, epoch) = (Gauge::<i64>::default(), Gauge::<i64>::default());
    ready.set(probed.health.check_ready(Instant::now()).is_ok().into());
    epoch.set(probed.health.epoch().unwrap_or(0) as i64);
    registry.register("ready", "1 while this node's ranks serve in the current epoch", ready);
    registry.register("epoch", "The epoch that this node's ranks have joined, or 0", epoch);
    let [read, step, busy]: [Family<RankLabel, Gauge<i64>>; 3] = Default::default();
    for (rank, counters) in probed.health.ranks().iter().zip(probed.ranks.iter()) {
        let label = RankLabel { rank: rank.rank };
        read.get_or_create(&label).set(counters.bytes_read.load(Ordering::Relaxed) as i64);
        step.get_or_create(&label).set(counters.last_step.load(Ordering::Relaxed) as i64);
        busy.get_or_create(&label).set(counters.busy.load(Ordering::Relaxed).into());
    }
    registry.register_with_unit("rank_read", "Weights read, by rank", Unit::Bytes, read);
    registry.register("rank_last_step", "Last finished step of the epoch, by rank", step);
    registry.register("rank_busy", "1 while a step is in flight, by rank", busy);
    let mut page = String::new();
    encode(&mut page, &registry)?;
    Ok(page)
}
