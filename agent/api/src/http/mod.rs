//! The HTTP endpoint: OpenAI-compatible `/v1/*`, probes and metrics.
//!
//! Every response carries `x-request-id`. Every error has OpenAI's JSON shape, even an error of the router, except a
//! probe's 503. The table [`fields::known`] has the rule for each field of a request.

mod body;
mod chat;
mod completions;
mod error;
mod fields;
mod format;
mod generate;
mod messages;
mod models;
mod probes;
mod tools;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::error::{ApiError, Uncounted};
#[cfg(test)]
pub(crate) use self::messages::read_messages;
use crate::access::{RequestId, log_requests};
use crate::metrics::Outcome;
use crate::serve::{Protocol, Serving, serve_listener};
use crate::session::Api;

/// Longest request body, in bytes: more text than any context holds.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Serves until `shutdown`, then until every connection has ended.
pub async fn serve(listener: TcpListener, api: Api, shutdown: CancellationToken) {
    let draining = api.draining(&shutdown);
    let serving = Serving { router: router(api), protocol: Protocol::Http, draining, shutdown };
    serve_listener(listener, serving).await;
}

fn router(api: Api) -> Router {
    let answers = Router::new()
        .route("/v1/completions", post(completions::create))
        .route("/v1/chat/completions", post(chat::create))
        .route_layer(from_fn_with_state(api.clone(), count_refusals));
    Router::new()
        .merge(answers)
        .route("/v1/models", get(models::list_models))
        .route("/v1/models/{*id}", get(models::get_model))
        .route("/health", get(probes::health))
        .route("/ready", get(probes::ready))
        .route("/accepting", get(probes::accepting))
        .route("/metrics", get(probes::metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(api.clone(), fields::report))
        .layer(from_fn_with_state(api.clone(), end_connections))
        .layer(from_fn(log_requests))
        .with_state(api)
}

/// Tells HTTP/1 clients of a draining head to close their connections. Without this, a client that keeps a connection
/// would ask the same head again and again.
async fn end_connections(State(api): State<Api>, request: Request, next: Next) -> Response {
    let is_http1 = request.version() <= Version::HTTP_11;
    let mut response = next.run(request).await;
    if is_http1 && api.status().borrow().draining {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Counts the requests for answers that were refused before the session saw them.
async fn count_refusals(State(api): State<Api>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.extensions().get::<Uncounted>().is_some() {
        api.metrics().count_outcome(Outcome::Invalid);
    }
    response
}

async fn not_found(request: Request) -> ApiError {
    let path = request.uri().path();
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!(
            "nothing is at {path}: try /v1/models, /v1/completions, /v1/chat/completions, /health, /ready, /accepting \
             or /metrics"
        ),
    )
}

async fn wrong_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}"))
}

type Id = Extension<RequestId>;
