//! The access log: one line for each request, of the target `access`, once the response has ended.
//!
//! A filter such as `info,access=off` leaves the lines out. Requests of probes and of metrics are lines of the level
//! debug. The module also gives every request its id.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Code, Status};

use crate::session::{Usage, request_id};

pub(crate) const REQUEST_ID: &str = "x-request-id";
/// Longest path that a line shows, in bytes.
const MAX_PATH: usize = 256;
/// Paths that are asked for every few seconds. A path that ends with a slash or a dot stands for all
/// paths that begin so.
const FREQUENT: [&str; 10] = [
    "/health",
    "/ready",
    "/accepting",
    "/metrics",
    "/ping",
    "/load",
    "/grpc.health.v1.Health/",
    "/grpc.reflection.",
    "/vllm.grpc.engine.VllmEngine/HealthCheck",
    "/vllm.grpc.engine.VllmEngine/GetLoads",
];
/// Status of a request whose client went away before the response began, as nginx logs it.
const CLIENT_GONE: u16 = 499;

/// Id of the request that is being served.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Address of the client. It is an extension of every request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote(pub(crate) SocketAddr);

/// Tokens of the answers of one request, as far as they have come. It is an extension of the response.
#[derive(Debug, Clone, Default)]
pub(crate) struct AnswerTally(Arc<Mutex<Tallied>>);

#[derive(Debug, Default)]
struct Tallied {
    usages: Vec<Usage>,
    error: Option<String>,
}

impl AnswerTally {
    /// Sets the tokens of one answer.
    pub(crate) fn set_usage(&self, answer: usize, usage: Usage) {
        let mut tallied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tallied.usages.len() <= answer {
            tallied.usages.resize(answer + 1, Usage::default());
        }
        tallied.usages[answer] = usage;
    }

    /// Sets the error that ended a response which had begun.
    pub(crate) fn fail(&self, error: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).error = Some(error.into());
    }

    fn total(&self) -> (Usage, Option<String>) {
        let tallied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (tallied.usages.iter().copied().sum(), tallied.error.clone())
    }
}

/// True if a header of the request has the request's id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NamedByHeader(pub(crate) bool);

/// Message of an error. It is an extension of the error's response.
#[derive(Debug, Clone)]
pub(crate) struct Refusal(pub(crate) String);

/// Gives the request an id, its response the same id, and logs the request when the response has ended.
pub(crate) async fn log_requests(mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers().get(REQUEST_ID).map(HeaderValue::as_bytes));
    let header = HeaderValue::try_from(&id);
    let mut line = Line::new(&request, id.clone());
    let is_named = request.headers().contains_key(REQUEST_ID);
    request.extensions_mut().insert(RequestId(id));
    request.extensions_mut().insert(NamedByHeader(is_named));
    if let Ok(header) = &header {
        request.headers_mut().insert(REQUEST_ID, header.clone());
    }
    let mut response = next.run(request).await;
    // A router's request has its id in the message, so only the service knows it.
    let own_id = response.headers().get(REQUEST_ID).and_then(|own| own.to_str().ok());
    match (own_id, header) {
        (Some(own), _) => own.clone_into(&mut line.id),
        (None, Ok(header)) => drop(response.headers_mut().insert(REQUEST_ID, header)),
        (None, Err(_)) => {}
    }
    line.status = Some(response.status());
    line.error = response.extensions_mut().remove::<Refusal>().map(|refusal| refusal.0);
    line.read_grpc_status(response.headers());
    line.tally = response.extensions_mut().remove();
    response.map(|inner| Body::new(LoggedBody { inner, line }))
}

/// Facts of one request. They are logged when this value is dropped.
struct Line {
    method: Method,
    path: String,
    id: String,
    remote: Option<SocketAddr>,
    started: Instant,
    /// `None` until the response begins.
    status: Option<StatusCode>,
    grpc_status: Option<Code>,
    tally: Option<AnswerTally>,
    error: Option<String>,
    /// Set once the whole response has been handed to the connection.
    ended: bool,
}

impl Line {
    fn new(request: &Request, id: String) -> Self {
        Self {
            method: request.method().clone(),
            path: request.uri().path().chars().take(MAX_PATH).collect(),
            id,
            remote: request.extensions().get::<Remote>().map(|remote| remote.0),
            started: Instant::now(),
            status: None,
            grpc_status: None,
            tally: None,
            error: None,
            ended: false,
        }
    }

    /// Reads the status of a gRPC call from the response's headers or trailers, if they have one.
    fn read_grpc_status(&mut self, headers: &HeaderMap) {
        let Some(status) = Status::from_header_map(headers) else { return };
        self.grpc_status = Some(status.code());
        if status.code() != Code::Ok {
            self.error.get_or_insert_with(|| status.message().to_owned());
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let (usage, failure) = self.tally.as_ref().map(AnswerTally::total).unzip();
        let gone = || (!self.ended).then(|| "the client went away".to_owned());
        let error = self.error.take().or_else(|| failure.flatten()).or_else(gone);
        let status = self.status.map_or(CLIENT_GONE, |status| status.as_u16());
        let seconds = (self.started.elapsed().as_secs_f64() * 1e4).round() / 1e4;
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    target: "access",
                    method = %self.method,
                    path = %self.path,
                    status,
                    grpc_status = self.grpc_status.map(debug),
                    request_id = %self.id,
                    prompt_tokens = usage.map(|usage| usage.prompt_tokens),
                    completion_tokens = usage.map(|usage| usage.completion_tokens),
                    cached_tokens = usage.map(|usage| usage.cached_tokens),
                    seconds,
                    remote = self.remote.map(display),
                    error = error.as_deref(),
                    "request"
                )
            };
        }
        let is_frequent = |frequent: &str| match frequent.ends_with(['/', '.']) {
            true => self.path.starts_with(frequent),
            false => self.path == frequent,
        };
        if FREQUENT.iter().any(|frequent| is_frequent(frequent)) { log!(debug) } else { log!(info) }
    }
}

/// Body of a response. The request is logged when the body is dropped.
struct LoggedBody {
    inner: Body,
    line: Line,
}

impl HttpBody for LoggedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            None => self.line.ended = true,
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.line.read_grpc_status(trailers);
                    self.line.ended = true;
                }
            }
            Some(Err(error)) => self.line.error = Some(error.to_string()),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for LoggedBody {
    fn drop(&mut self) {
        self.line.ended |= self.inner.is_end_stream();
    }
}
