//! Client connections of gRPC and HTTP: how old they become, and how they end. [`Places`] bounds their number.
//!
//! When a connection reaches its maximum age, the server asks the client to close it (`Connection: close`, GOAWAY) and
//! finishes its requests. The client then connects again, perhaps to another group, so the load spreads over the groups
//! behind one address. When the head begins to drain, the server asks all clients at once, so that they turn to another
//! head. It still takes connections until the shutdown, for probes and for clients that must be told, and ends each one
//! after its first request. The caller of [`serve`] decides how long to wait for the connections to end, and then drops
//! the future.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::access::Remote;
use crate::guard::CurrentTls;
use crate::places::{Place, PlaceLimits, Places};

/// Most requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 1024;
/// Age at which the server asks a client to close a connection. Each connection draws an age within a tenth of this, so
/// that they do not all end together.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Time after that request within which a connection must finish its answers. It is longer than any answer takes.
const AGE_GRACE: Duration = Duration::from_secs(3600);
/// Time within which a client must begin its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// Paths that the places in reserve serve.
const PROBES: [&str; 6] = ["/health", "/live", "/ready", "/accepting", "/ping", "/metrics"];
/// Time within which an HTTP/1 client must send a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time within which a client must finish the handshake of TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a frame after which the server sends a ping to an HTTP/2 client.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Time within which the client must answer the ping. After it, the server closes the connection.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes of an HTTP/1 request's headers, and of a body that is read at a time. Thousands of clients may send at once.
const BUFFER_BYTES: usize = 32 << 10;
/// Most bytes that a client of HTTP/2 may send before the server has taken them: of one request, and of a connection.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 128 << 10;
/// Age at which the server asks a client to close a connection that it opened to a draining head. By then the client has
/// sent the request for which it opened the connection.
const DRAIN_AGE: Duration = Duration::from_secs(1);

/// Versions of HTTP that a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2.
    Http,
    /// HTTP/2 only.
    Grpc,
}

/// Service of a listener.
#[derive(Clone)]
pub(crate) struct Serving {
    pub router: Router,
    pub protocol: Protocol,
    /// `None`: connections are in plain text.
    pub tls: Option<CurrentTls>,
    /// Cancelled when the head begins to drain.
    pub draining: CancellationToken,
    pub shutdown: CancellationToken,
}

/// Serves until `shutdown`, then until every connection has ended.
pub async fn serve(listener: TcpListener, router: Router, protocol: Protocol, shutdown: CancellationToken) {
    let draining = CancellationToken::new();
    serve_listener(listener, Serving { router, protocol, tls: None, draining, shutdown }).await;
}

/// Serves until the shutdown, then until every connection has ended.
pub(crate) async fn serve_listener(listener: TcpListener, serving: Serving) {
    let builder = Arc::new(builder(serving.protocol));
    let places = Places::new(PlaceLimits::of_clients());
    let shutdown = serving.shutdown.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = places.accept(&listener) => {
                let Some((stream, remote, place)) = accepted else { continue };
                let (builder, serving) = (builder.clone(), serving.clone());
                connections.spawn(async move {
                    let end = place.end().clone();
                    let serve = async {
                        if let Some(stream) = prepare_stream(stream, remote, serving.tls.as_ref()).await {
                            serve_connection(stream, remote, &builder, serving, place).await;
                        }
                    };
                    tokio::select! {
                        () = serve => {}
                        () = end.cancelled() => {}
                    }
                });
            }
            Some(_) = connections.join_next() => {}
            () = shutdown.cancelled() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn builder(protocol: Protocol) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    match protocol {
        Protocol::Http => builder,
        Protocol::Grpc => builder.http2_only(),
    }
}

/// A connection in plain text or with TLS.
trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Makes the accepted connection ready for requests. Returns `None` if the handshake of TLS fails.
async fn prepare_stream(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<&CurrentTls>,
) -> Option<Box<dyn ByteStream>> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "turn off Nagle's algorithm");
    }
    let Some(tls) = tls.cloned() else { return Some(Box::new(stream)) };
    let handshake = async {
        // The settings come from files.
        let config = tokio::task::spawn_blocking(move || tls()).await.map_err(io::Error::other)?;
        TlsAcceptor::from(config).accept(stream).await
    };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => Some(Box::new(stream)),
        Err(error) => {
            tracing::debug!(%remote, %error, "the handshake of TLS failed");
            None
        }
    }
}

/// Serves one connection to its end.
async fn serve_connection(
    stream: Box<dyn ByteStream>,
    remote: SocketAddr,
    builder: &Builder<TokioExecutor>,
    serving: Serving,
    place: Place,
) {
    let Serving { router, protocol, draining, shutdown, tls: _ } = serving;
    let router = TowerToHyperService::new(router);
    let place = Arc::new(place);
    let service = service_fn({
        let place = place.clone();
        move |mut request: Request<Incoming>| {
            prepare_request(&mut request, remote, protocol);
            let busy = place.begin();
            let refused = place.is_reserve() && !PROBES.contains(&request.uri().path());
            let answer = if refused { None } else { Some(router.call(request)) };
            async move {
                let response = match answer {
                    Some(answer) => answer.await?,
                    None => busy_response(),
                };
                // The request lasts until its answer has been sent.
                Ok::<_, Infallible>(response.map(|body| {
                    Body::new(body.map_frame(move |frame| {
                        let _busy = &busy;
                        frame
                    }))
                }))
            }
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let is_late = draining.is_cancelled();
    let done = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = stays_silent(&place) => return tracing::debug!(%remote, "closed a connection without a request"),
        () = tokio::time::sleep(if is_late { DRAIN_AGE } else { draw_age() }) => None,
        () = draining.cancelled(), if !is_late => None,
        () = shutdown.cancelled() => None,
    };
    let result = match done {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(AGE_GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

/// Returns once the client has begun no request within [`FIRST_REQUEST`].
async fn stays_silent(place: &Place) {
    tokio::time::sleep(FIRST_REQUEST).await;
    if place.has_begun() {
        std::future::pending::<()>().await;
    }
}

/// Returns the answer to a request for which all connections but those of probes are busy.
fn busy_response() -> Response<Body> {
    let reason = "the server has no connection left for this request: try again in a few seconds";
    let headers = [(header::RETRY_AFTER, "5"), (header::CONNECTION, "close")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, reason).into_response()
}

/// Adds the client's address to the request. Removes a slash at the end of an HTTP path.
fn prepare_request<B>(request: &mut Request<B>, remote: SocketAddr, protocol: Protocol) {
    request.extensions_mut().insert(Remote(remote));
    if protocol == Protocol::Http
        && let Some(uri) = without_end_slash(request.uri())
    {
        *request.uri_mut() = uri;
    }
}

/// Returns `uri` without the slashes at the end of its path, or `None` if it has none or the path is `/`.
fn without_end_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path().trim_end_matches('/');
    if path.is_empty() || path.len() == uri.path().len() {
        return None;
    }
    let path = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

/// Draws the age at which a connection ends: [`MAX_AGE`], give or take a tenth.
fn draw_age() -> Duration {
    let spread = (uuid::Uuid::new_v4().as_u128() % 2000) as u32;
    MAX_AGE / 10_000 * (9_000 + spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_at_the_end_of_a_path_are_removed() {
        let cases = [
            ("/v1/models/", Some("/v1/models")),
            ("/v1/models//?a=b/", Some("/v1/models?a=b/")),
            ("http://host/health/", Some("http://host/health")),
            ("/v1/models", None),
            ("/", None),
            ("//", None),
            ("*", None),
        ];
        for (uri, expected) in cases {
            let got = without_end_slash(&uri.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(got.as_deref(), expected, "{uri}");
        }
    }
}
