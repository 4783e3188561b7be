//! Client connections of gRPC and HTTP: their number, their age and their end.
//!
//! A connection that reaches its age is asked to end (`Connection: close`, GOAWAY) and finishes its requests. The
//! client then connects again, perhaps to another group: so the load behind one address spreads. A shutdown asks all
//! connections to end at once. The caller decides how long to wait and then drops the future.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Most connections of one listener. Further ones wait in the kernel's queue until one ends.
const MAX_CONNECTIONS: usize = 4096;
/// Most requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 1024;
/// Age at which a connection is asked to end, give or take a tenth so that connections do not end all together.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Time after that within which a connection must finish its requests. It is longer than any answer takes.
const AGE_GRACE: Duration = Duration::from_secs(3600);
/// Time within which an HTTP/1 client must send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time after which a silent HTTP/2 peer is asked for a sign of life. [`KEEP_ALIVE_TIMEOUT`] is its time to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause after a failed accept. Without file descriptors, the next accept would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Versions of HTTP that a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2.
    Http,
    /// HTTP/2 only.
    Grpc,
}

/// Serves until `shutdown`, then until every connection has ended.
pub async fn serve(listener: TcpListener, router: Router, protocol: Protocol, shutdown: CancellationToken) {
    let builder = Arc::new(builder(protocol));
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(&listener, &permits) => {
                let Some((stream, permit)) = accepted else { continue };
                let (builder, router, shutdown) = (builder.clone(), router.clone(), shutdown.clone());
                connections.spawn(async move {
                    let _permit = permit;
                    connection(stream, &builder, router, shutdown).await;
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
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    match protocol {
        Protocol::Http => builder,
        Protocol::Grpc => builder.http2_only(),
    }
}

/// Waits for room and accepts the next connection. Returns `None` if accepting failed.
async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            tracing::warn!(%error, "accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Serves one connection to its end.
async fn connection(stream: TcpStream, builder: &Builder<TokioExecutor>, router: Router, shutdown: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "turn off Nagle's algorithm");
    }
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let done = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = tokio::time::sleep(age()) => None,
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

/// Returns [`MAX_AGE`], give or take a tenth.
fn age() -> Duration {
    let spread = (uuid::Uuid::new_v4().as_u128() % 2000) as u32;
    MAX_AGE / 10_000 * (9_000 + spread)
}
