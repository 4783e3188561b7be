//! The listening end: accepted connections and the roles of their callers.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use lockstep_api::{Busy, Place, PlaceLimits, Places};
use lockstep_proto::names::{env, role};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use super::files::{Tls, has_dns_name};

/// Numbers of connections. If there are more, the oldest one that has called nothing yet goes, of the address that has the
/// most. So strangers push out only their own.
const LIMITS: PlaceLimits = PlaceLimits { sum: 1024, of_address: 256, reserve: 0 };
/// Time within which a caller must have made its first call after the handshake.
const FIRST_CALL: Duration = Duration::from_secs(10);
/// Time after which the process refuses a caller that has not presented its certificate.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Accepted connections that the channel to the server holds. The task of each further one waits for room.
const BACKLOG: usize = 16;
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
    entry: Option<Arc<Entry>>,
}

/// Place of a connection, which keeps it from its first call on.
#[derive(Debug)]
struct Entry {
    place: Place,
    called: OnceLock<Busy>,
}

impl Entry {
    /// Notes that the connection has made a call, and so keeps its place.
    fn call(&self) {
        self.called.get_or_init(|| self.place.begin());
    }
}

impl Peer {
    /// Returns the caller of `request`.
    ///
    /// # Errors
    /// INTERNAL for a request that did not come over a connection of [`accept_connections`].
    pub(crate) fn from_request<T>(request: &Request<T>) -> Result<Self, Status> {
        let peer = request.extensions().get::<Self>().cloned().ok_or_else(|| {
            Status::internal("the request came over a connection without addresses: this is a fault of the agent")
        })?;
        if let Some(entry) = &peer.entry {
            entry.call();
        }
        Ok(peer)
    }

    /// Makes a peer without a connection.
    #[cfg(test)]
    pub(crate) fn without_connection(remote: SocketAddr, local: SocketAddr, caller: Caller) -> Self {
        Self { remote, local, caller, entry: None }
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
    /// Ends when the connection must give its place away.
    end: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
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
    let places = Places::new(LIMITS);
    loop {
        let next = tokio::select! {
            next = places.accept(&listener) => next,
            () = accepted.closed() => return,
        };
        let Some((stream, remote, place)) = next else { continue };
        let (tls, accepted) = (tls.clone(), accepted.clone());
        tokio::spawn(async move {
            let end = place.end().clone();
            let entry = Arc::new(Entry { place, called: OnceLock::new() });
            let connection = tokio::select! {
                connection = tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(stream, remote, tls, entry.clone())) => connection,
                () = end.cancelled() => return,
            };
            match connection.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(connection) => {
                    accepted.send(Ok(connection)).await.ok();
                    end_without_call(entry).await;
                }
                Err(error) => log_refusal(remote, &error),
            }
        });
    }
}

/// Ends a connection that makes no call in time.
async fn end_without_call(entry: Arc<Entry>) {
    let entry = Arc::downgrade(&entry);
    tokio::time::sleep(FIRST_CALL).await;
    if let Some(entry) = entry.upgrade().filter(|entry| entry.called.get().is_none()) {
        entry.place.end().cancel();
    }
}

async fn shake_hands(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<Arc<Tls>>,
    entry: Arc<Entry>,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let end = Box::pin(entry.place.end().clone().cancelled_owned());
    let Some(tls) = tls else {
        let peer = Peer { remote, local, caller: Caller::Anyone, entry: Some(entry) };
        return Ok(Connection { bytes: Box::pin(stream), peer, end });
    };
    let acceptor = TlsAcceptor::from(tls.current_blocking().await?.server);
    let stream = acceptor.accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let has_role =
        |role: &&'static str| certificates.first().is_some_and(|certificate| has_dns_name(certificate, role));
    let caller = Caller::Certified(ROLES.into_iter().filter(has_role).collect());
    // A caller with a certificate is no stranger.
    entry.call();
    let peer = Peer { remote, local, caller, entry: Some(entry) };
    Ok(Connection { bytes: Box::pin(stream), peer, end })
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
