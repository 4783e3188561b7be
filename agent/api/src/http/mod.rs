//! The HTTP endpoint: OpenAI-compatible `/v1/*`, Anthropic's `/v1/messages`, probes, metrics, and pages for people.
//!
//! Every response carries `x-request-id`. Every error has OpenAI's JSON shape, even an error of the router, except a
//! probe's 503 and the errors of `/v1/messages`. The table [`fields::known`] has the rule for each field of a request.

mod anthropic;
mod blocks;
mod body;
mod chat;
mod completions;
mod error;
mod fields;
mod format;
mod generate;
mod info;
mod messages;
mod models;
mod object;
mod openapi;
mod page;
mod probes;
mod prompt;
mod reasoning;
mod responses;
mod tools;

use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use self::error::{ApiError, Uncounted};
#[cfg(test)]
pub(crate) use self::messages::read_messages;
use crate::access::{REQUEST_ID, RequestId, log_requests};
use crate::metrics::Outcome;
use crate::serve::{Protocol, Serving, serve_listener};
use crate::session::Api;

/// Headers that scripts of other origins may read.
const EXPOSED: [&str; 4] = [REQUEST_ID, "x-lockstep-ignored", "retry-after", "request-id"];
/// Time for which a browser may remember that a page's script may use the endpoint.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);
/// Paths that need no key.
const OPEN_PATHS: [&str; 9] =
    ["/", "/health", "/ready", "/accepting", "/metrics", "/ping", "/version", "/docs", "/openapi.json"];

/// Serves until `shutdown`, then until every connection has ended.
pub async fn serve(listener: TcpListener, api: Api, shutdown: CancellationToken) {
    let draining = api.draining(&shutdown);
    let tls = api.access().tls.clone();
    let is_local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let serving = Serving { router: router(api, is_local), protocol: Protocol::Http, tls, draining, shutdown };
    serve_listener(listener, serving).await;
}

/// Returns the routes. `is_local`: only this machine can reach the port.
fn router(api: Api, is_local: bool) -> Router {
    let answers = Router::new()
        .route("/v1/completions", post(completions::create))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/chat/completions/batch", post(chat::create_batch))
        .route("/v1/responses", post(responses::create))
        .route("/v1/messages", post(anthropic::create))
        .route("/invocations", post(info::invoke))
        .route_layer(from_fn_with_state(api.clone(), count_refusals));
    let router = Router::new()
        .merge(answers)
        .route("/", get(page::chat))
        .route("/docs", get(page::docs))
        .route("/openapi.json", get(openapi::describe))
        .route("/v1/models", get(models::list_models))
        .route("/v1/models/{*id}", get(models::get_model))
        .route("/v1/responses/input_tokens", post(responses::count_tokens))
        .route("/v1/responses/{*rest}", any(responses::not_stored))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/tokenize", post(info::tokenize))
        .route("/detokenize", post(info::detokenize))
        .route("/version", get(info::version))
        .route("/load", get(info::load))
        .route("/server_info", get(info::server_info))
        .route("/ping", get(info::ping).post(info::ping))
        .route("/health", get(probes::health))
        .route("/ready", get(probes::ready))
        .route("/accepting", get(probes::accepting))
        .route("/metrics", get(probes::metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(api.clone(), fields::report))
        .layer(from_fn_with_state(api.clone(), check_key))
        .layer(cors(&api));
    // Whoever reaches a port from elsewhere may call it by any name.
    let router = if is_local { router.layer(from_fn_with_state(api.clone(), check_host)) } else { router };
    router
        .layer(from_fn_with_state(api.clone(), end_connections))
        .layer(from_fn(anthropic::reshape_errors))
        .layer(from_fn(log_requests))
        .with_state(api)
}

/// Answers browsers that ask if a page's script may use the endpoint, and says so in each response to such a script.
fn cors(api: &Api) -> CorsLayer {
    let origins = api.access().origins.clone();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| origins.allow(origin.as_bytes())))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(PREFLIGHT_AGE)
        .allow_private_network(true)
}

/// Refuses a request without one of the server's keys. Probes, metrics and pages without secrets need none.
async fn check_key(State(api): State<Api>, request: Request, next: Next) -> Response {
    if OPEN_PATHS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match api.access().check_key(request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(reason) => {
            let error = ApiError { code: Some("invalid_api_key"), ..ApiError::new(StatusCode::UNAUTHORIZED, reason) };
            let mut response = error.into_response();
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

/// Refuses a request for a name that is not this machine's. A page can make its own name point to this machine, and its
/// scripts would then count as the server's own.
async fn check_host(State(api): State<Api>, request: Request, next: Next) -> Result<Response, ApiError> {
    let header = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    let asked = request.uri().authority().map(Authority::as_str).or(header);
    match asked.filter(|host| !api.access().origins.allow_host(host)) {
        None => Ok(next.run(request).await),
        Some(host) => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!(
                "this port of the machine itself does not answer to the name {host:?}: use localhost, or allow the name \
                 by --allowed-origins=http://{host}"
            ),
        )),
    }
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

/// Returns the response with the id that the request's body asked for.
fn with_request_id(mut response: Response, id: String) -> Response {
    if let Ok(value) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, value);
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
            "nothing is at {path}: try /v1/models, /v1/completions, /v1/chat/completions, /v1/responses, /v1/messages, \
             /health, /ready, /accepting or /metrics"
        ),
    )
}

async fn wrong_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}"))
}

type Id = Extension<RequestId>;
