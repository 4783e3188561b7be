//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Condition that the program still lacks, or `None` if the program works or stands by.
pub(super) type Waiting = Option<String>;

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    waiting: watch::Receiver<Waiting>,
}

/// Serves the three pages until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    waiting: watch::Receiver<Waiting>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let routes = Router::new()
        // An answer shows that the runtime is not stuck.
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(answer_ready))
        .route("/metrics", get(answer_metrics))
        .with_state(Shared { metrics, waiting });
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn answer_ready(State(shared): State<Shared>) -> Response {
    match &*shared.waiting.borrow() {
        None => "ok\n".into_response(),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")).into_response(),
    }
}

async fn answer_metrics(State(shared): State<Shared>) -> Response {
    match shared.metrics.to_text() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
