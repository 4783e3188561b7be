//! The listening end: accepted connections and the roles of their callers.

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

use super::files::{Tls, has_dns_name};

/// Most handshakes at a time. Further callers wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 64;
/// Time after which the process refuses a caller that has not presented its certificate.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Accepted connections that the channel to the server holds. The task of each further one waits for room.
const BACKLOG: usize = 16;
/// Pause after a failed accept. Without a free file descriptor, the next accept would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Roles that a certificate can name.
const ROLES: [&str; 3] = [role::HEAD, role::NODE, role::OPERATOR];

/// Proof that a caller has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// No proof: the port does not use TLS.
    Anyone,
    /// A certificate of the cluster's CA with these roles.
    Certified(Vec<&'static str>),
}

/// Other end of a connection. It is an extension of every request over the connection.
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
    /// INTERNAL for a request that did not come over a connection of [`accept_connections`].
    pub(crate) fn from_request<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| {
            Status::internal("the request came over a connection without addresses: this is a fault of the agent")
        })
    }

    /// Accepts a caller whose certificate has one of `roles`, and any caller on a port without TLS.
    ///
    /// # Errors
    /// PERMISSION_DENIED for any other caller. The message gives the roles that the caller has and needs.
    pub(crate) fn require(&self, roles: &[&str]) -> Result<(), Status> {
        let Caller::Certified(own_roles) = &self.caller else { return Ok(()) };
        if own_roles.iter().any(|role| roles.contains(role)) {
            return Ok(());
        }
        let own_roles = if own_roles.is_empty() { "no role".to_owned() } else { own_roles.join(", ") };
        Err(Status::permission_denied(format!(
            "the caller's certificate names {own_roles}: use a certificate for {}",
            roles.join(" or ")
        )))
    }
}

/// A byte stream with or without TLS.
trait ByteStream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> ByteStream for T {}

/// One accepted connection.
pub struct Connection {
    bytes: Pin<Box<dyn ByteStream>>,
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

/// Accepts connections of a listener, and yields each one after its handshake, until the returned stream is dropped.
pub fn accept_connections(listener: TcpListener, tls: Option<Arc<Tls>>) -> ReceiverStream<io::Result<Connection>> {
    let (accepted, stream) = mpsc::channel(BACKLOG);
    tokio::spawn(accept_all(listener, tls, accepted));
    ReceiverStream::new(stream)
}

async fn accept_all(listener: TcpListener, tls: Option<Arc<Tls>>, accepted: mpsc::Sender<io::Result<Connection>>) {
    let permits = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let next = tokio::select! {
            next = accept_next(&listener, &permits) => next,
            () = accepted.closed() => return,
        };
        let Some((stream, remote, permit)) = next else { continue };
        let (tls, accepted) = (tls.clone(), accepted.clone());
        tokio::spawn(async move {
            let connection = tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(stream, remote, tls)).await;
            drop(permit);
            match connection.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(connection) => {
                    accepted.send(Ok(connection)).await.ok();
                }
                Err(error) => log_refusal(remote, &error),
            }
        });
    }
}

async fn accept_next(
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

async fn shake_hands(stream: TcpStream, remote: SocketAddr, tls: Option<Arc<Tls>>) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let Some(tls) = tls else {
        return Ok(Connection { bytes: Box::pin(stream), peer: Peer { remote, local, caller: Caller::Anyone } });
    };
    let acceptor = TlsAcceptor::from(tls.current_blocking().await?.server);
    let stream = acceptor.accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let has_role =
        |role: &&'static str| certificates.first().is_some_and(|certificate| has_dns_name(certificate, role));
    let caller = Caller::Certified(ROLES.into_iter().filter(has_role).collect());
    Ok(Connection { bytes: Box::pin(stream), peer: Peer { remote, local, caller } })
}

/// Logs a refused caller. A caller that only opens the port, such as a probe, is no warning.
fn log_refusal(remote: SocketAddr, error: &io::Error) {
    if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) {
        return tracing::debug!(%remote, %error, "a caller closed the connection during the handshake");
    }
    tracing::warn!(
        %remote,
        %error,
        "refused a caller: the control port accepts only certificates of the cluster's CA; set {} on the caller",
        env::TLS_DIR
    );
}
