//! The listening end: accepted connections with what is known of their callers.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use lockstep_proto::names::{env, role};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use super::files::{Tls, names};

/// Handshakes at a time; further callers wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 64;
/// A caller that has not shown its certificate by then is turned away.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Accepted connections that may wait for the server.
const BACKLOG: usize = 16;
/// Pause after a failed accept: out of file descriptors, it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The roles that a certificate can name.
const ROLES: [&str; 3] = [role::HEAD, role::NODE, role::OPERATOR];

/// What a caller has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nothing: the port speaks in the clear.
    Anyone,
    /// A certificate of the cluster's CA that names these roles.
    Certified(Vec<&'static str>),
}

/// The other end of a connection; an extension of every request that comes over it.
#[derive(Debug, Clone)]
pub struct Peer {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    pub caller: Caller,
}

impl Peer {
    /// Returns the caller of `request`.
    ///
    /// # Errors
    /// INTERNAL for a request that did not come over one of [`incoming`]'s connections.
    pub fn from_request<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| Status::internal("a connection without addresses"))
    }

    /// Lets a certified caller pass that has one of `roles`, and anyone where the port speaks in the clear.
    ///
    /// # Errors
    /// PERMISSION_DENIED, with what the certificate names and what it would have to name.
    pub fn require(&self, roles: &[&str]) -> Result<(), Status> {
        let Caller::Certified(named) = &self.caller else { return Ok(()) };
        if named.iter().any(|name| roles.contains(name)) {
            return Ok(());
        }
        let named = if named.is_empty() { "no role".to_owned() } else { named.join(", ") };
        Err(Status::permission_denied(format!(
            "the caller's certificate names {named}: this needs {}",
            roles.join(" or ")
        )))
    }
}

/// A byte stream of either kind.
trait Bytes: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Bytes for T {}

/// One accepted connection.
pub struct Connection {
    bytes: Pin<Box<dyn Bytes>>,
    peer: Peer,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.bytes.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.bytes.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bytes.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.bytes.is_write_vectored()
    }
}

/// Connections of a listener, each after its handshake; they end when nobody takes them any more.
pub fn incoming(listener: TcpListener, tls: Option<Arc<Tls>>) -> ReceiverStream<io::Result<Connection>> {
    let (accepted, stream) = mpsc::channel(BACKLOG);
    tokio::spawn(accept_all(listener, tls, accepted));
    ReceiverStream::new(stream)
}

async fn accept_all(listener: TcpListener, tls: Option<Arc<Tls>>, accepted: mpsc::Sender<io::Result<Connection>>) {
    let permits = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let next = tokio::select! {
            next = accept(&listener, &permits) => next,
            () = accepted.closed() => return,
        };
        let Some((stream, remote, permit)) = next else { continue };
        let (tls, accepted) = (tls.clone(), accepted.clone());
        tokio::spawn(async move {
            let connection = tokio::time::timeout(HANDSHAKE_TIMEOUT, greet(stream, remote, tls)).await;
            drop(permit);
            match connection.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(connection) => {
                    accepted.send(Ok(connection)).await.ok();
                }
                Err(error) => turned_away(remote, &error),
            }
        });
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, remote)) => Some((stream, remote, permit)),
        Err(error) => {
            tracing::warn!(%error, "accept a control connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn greet(stream: TcpStream, remote: SocketAddr, tls: Option<Arc<Tls>>) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let Some(tls) = tls else {
        return Ok(Connection { bytes: Box::pin(stream), peer: Peer { remote, local, caller: Caller::Anyone } });
    };
    let acceptor = TlsAcceptor::from(tls.fresh().await?.server);
    let stream = acceptor.accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let named = |role: &&'static str| certificates.first().is_some_and(|certificate| names(certificate, role));
    let caller = Caller::Certified(ROLES.into_iter().filter(named).collect());
    Ok(Connection { bytes: Box::pin(stream), peer: Peer { remote, local, caller } })
}

/// Callers that hang up without a word (probes of the port) are no news.
fn turned_away(remote: SocketAddr, error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
        return tracing::debug!(%remote, %error, "a caller hung up in the handshake");
    }
    tracing::warn!(
        %remote,
        %error,
        "turned a caller away: the control port takes certificates of the cluster's CA; does it have {}?",
        env::TLS_DIR
    );
}
