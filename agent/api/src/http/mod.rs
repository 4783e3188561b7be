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
use axum::extract::{DefaultBodyLimit, Extension, Request};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::error::ApiError;
#[cfg(test)]
pub(crate) use self::messages::read_messages;
use crate::serve::{Protocol, serve as serve_connections};
use crate::session::{Api, request_id};

/// Longest request body, in bytes: more text than any context holds.
const MAX_BODY_BYTES: usize = 16 << 20;

const REQUEST_ID: &str = "x-request-id";

/// Id of the request that is being served.
#[derive(Debug, Clone)]
struct RequestId(String);

/// Serves until `shutdown`, then until every connection has ended.
pub async fn serve(listener: TcpListener, api: Api, shutdown: CancellationToken) {
    serve_connections(listener, router(api), Protocol::Http, shutdown).await;
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/models", get(models::list_models))
        .route("/v1/models/{*id}", get(models::get_model))
        .route("/v1/completions", post(completions::create))
        .route("/v1/chat/completions", post(chat::create))
        .route("/health", get(probes::health))
        .route("/ready", get(probes::ready))
        .route("/accepting", get(probes::accepting))
        .route("/metrics", get(probes::metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(api.clone(), fields::report))
        .layer(from_fn(identify))
        .with_state(api)
}

/// Gives every request an id, and its response the same id.
async fn identify(mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers().get(REQUEST_ID).map(HeaderValue::as_bytes));
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, value);
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
