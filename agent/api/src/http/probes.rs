//! Probes and metrics of the head. `/health`: the head's task runs. `/ready`: every rank serves, and the head does not
//! drain. `/accepting`: the head expects to answer a new request.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lockstep_proto::v1::{ClusterStatus, RankStatus};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::metrics::PageFormat;
use crate::session::Api;

pub(crate) async fn health(State(api): State<Api>) -> Response {
    match api.hung_for() {
        None => Json(json!({"status": "ok"})).into_response(),
        Some(hung) => {
            let body =
                json!({"status": "hung", "message": format!("the head's task has not run its loop for {hung:.0?}")});
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

pub(crate) async fn ready(State(api): State<Api>) -> Response {
    let status = api.status().borrow().clone();
    probe(status.ready, &status)
}

pub(crate) async fn accepting(State(api): State<Api>) -> Response {
    let status = api.status().borrow().clone();
    probe(status.accepting, &status)
}

pub(crate) async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Result<Response, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = PageFormat::from_accept(accept);
    let page = api
        .metrics()
        .render_as(&api.status().borrow(), format)
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("write the metrics: {error}")))?;
    Ok(([(header::CONTENT_TYPE, format.content_type())], page).into_response())
}

/// Returns 200 or 503 with the state of every rank.
fn probe(up: bool, status: &ClusterStatus) -> Response {
    let ranks: Vec<Value> = status.ranks.iter().map(rank).collect();
    let body = json!({
        "ready": status.ready, "accepting": status.accepting, "epoch": status.epoch,
        "pending": status.pending, "ranks": ranks,
    });
    (if up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body)).into_response()
}

fn rank(rank: &RankStatus) -> Value {
    let phase = rank.phase().as_str_name().trim_start_matches("PHASE_").to_ascii_lowercase();
    let mut value = json!({"rank": rank.rank, "node": rank.node, "phase": phase});
    if rank.bytes_total > 0 && rank.bytes_loaded < rank.bytes_total {
        value["loaded"] = json!(format!("{}%", rank.bytes_loaded.saturating_mul(100) / rank.bytes_total));
    }
    if rank.restarts > 0 {
        value["restarts"] = json!(rank.restarts);
    }
    if !rank.message.is_empty() {
        value["message"] = json!(rank.message);
    }
    value
}
