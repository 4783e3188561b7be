//! The port on which a rank accepts links and bootstrap calls, in all epochs.
//!
//! One thread answers all callers. It bounds the number of half-open connections and the time of each. So a stranger
//! can neither stall nor break the forming of a group.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::abort::{AbortSwitch, sleep_on};
use crate::error::CollectiveError;
use crate::ring::acceptor::Acceptor;
use crate::ring::greeting::{
    GREETING_VERSION, Greeting, MAX_GREETING_BYTES, ParsedGreeting, Verdict, encode_preface, parse_greeting,
};
use crate::ring::handshake::{ACCEPTED, HANDSHAKE_TIMEOUT, LAST_MESSAGE_BYTES, NOT_ACCEPTED};
use crate::ring::key::{LinkKey, PROOF_BYTES, Side, make_proof, verify_proof};

/// Most half-open connections. For a further connection, the thread closes the oldest.
const MAX_HALF_OPEN: usize = 64;

/// Most connections that are accepted before the thread looks at the existing ones again.
const MAX_ACCEPTED_AT_ONCE: usize = 16;

/// Pause after a failed `accept` or `poll`, for example because the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound port. Its thread ends when the listener is dropped.
#[derive(Debug)]
pub struct Listener {
    pub(crate) acceptor: Arc<Acceptor>,
    stop: AbortSwitch,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Binds `address` and begins to answer. Port 0 means any free port.
    pub fn bind(address: SocketAddr) -> Result<Self, CollectiveError> {
        let unavailable = |error: io::Error| CollectiveError::Unavailable {
            backend: "ring",
            reason: format!("listen on {address}: {error}; choose another port, or end the process that holds it"),
        };
        let listener = TcpListener::bind(address).map_err(unavailable)?;
        listener.set_nonblocking(true).map_err(unavailable)?;
        let address = listener.local_addr().map_err(unavailable)?;
        let acceptor = Arc::new(Acceptor::new().map_err(unavailable)?);
        let stop = AbortSwitch::new()?;
        let accept_loop =
            AcceptLoop { listener, acceptor: acceptor.clone(), stop: stop.clone(), connections: VecDeque::new() };
        let thread = std::thread::Builder::new()
            .name("ring-listener".into())
            .spawn(move || accept_loop.run())
            .map_err(unavailable)?;
        Ok(Self { acceptor, stop, address, thread: Some(thread) })
    }

    /// Returns the address on which the rank listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.abort("the listener was dropped");
        if let Some(thread) = self.thread.take() {
            // The thread is over, even if it panicked.
            let _ = thread.join();
        }
    }
}

/// State of the listener's thread.
struct AcceptLoop {
    listener: TcpListener,
    acceptor: Arc<Acceptor>,
    stop: AbortSwitch,
    connections: VecDeque<HalfOpenConnection>,
}

/// Connection whose caller has yet to prove that it knows the key.
struct HalfOpenConnection {
    stream: TcpStream,
    address: SocketAddr,
    deadline: Instant,
    received: Vec<u8>,
    /// Set once the greeting was welcomed. The caller must now send its proof.
    welcomed: Option<WelcomedGreeting>,
}

struct WelcomedGreeting {
    greeting: Greeting,
    transcript: Vec<u8>,
    key: Option<LinkKey>,
}

/// State of a connection after it was served.
#[derive(PartialEq, Eq)]
enum ConnectionState {
    HalfOpen,
    Finished,
}

impl AcceptLoop {
    fn run(mut self) {
        while self.stop.reason().is_none() {
            let accepting = self.accept_connections();
            let acceptor = &self.acceptor;
            self.connections.retain_mut(|connection| connection.serve(acceptor) == ConnectionState::HalfOpen);
            if let Err(error) = self.sleep(accepting) {
                tracing::error!(%error, "the ring's listener cannot poll");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }

    fn sleep(&self, accepting: bool) -> io::Result<()> {
        let mut fds = vec![self.stop.poll_fd()];
        let mut longest = HANDSHAKE_TIMEOUT;
        if accepting {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        } else {
            longest = ACCEPT_PAUSE;
        }
        fds.extend(self.connections.iter().map(|connection| PollFd::new(&connection.stream, PollFlags::IN)));
        let now = Instant::now();
        let next_deadline =
            self.connections.iter().map(|connection| connection.deadline.saturating_duration_since(now)).min();
        sleep_on(&mut fds, next_deadline.unwrap_or(longest).min(longest) + Duration::from_millis(1))
    }

    /// Accepts new connections. Returns false if `accept` failed, so that the thread pauses.
    fn accept_connections(&mut self) -> bool {
        for _ in 0..MAX_ACCEPTED_AT_ONCE {
            match self.listener.accept() {
                Ok((stream, address)) => {
                    if stream.set_nonblocking(true).is_ok() {
                        self.add_connection(stream, address);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a ring connection");
                    return false;
                }
            }
        }
        true
    }

    fn add_connection(&mut self, stream: TcpStream, address: SocketAddr) {
        if self.connections.len() == MAX_HALF_OPEN {
            self.connections.pop_front();
        }
        // A short greeting must not wait for an acknowledgement. Without the option the handshake works too, but more
        // slowly.
        let _ = stream.set_nodelay(true);
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let connection = HalfOpenConnection { stream, address, deadline, received: Vec::new(), welcomed: None };
        self.connections.push_back(connection);
    }
}

impl HalfOpenConnection {
    /// Reads the bytes that have arrived, and answers them.
    fn serve(&mut self, acceptor: &Acceptor) -> ConnectionState {
        let mut chunk = [0; MAX_GREETING_BYTES];
        let room = MAX_GREETING_BYTES + 1 - self.received.len();
        match self.stream.read(&mut chunk[..room.min(MAX_GREETING_BYTES)]) {
            Ok(0) => return ConnectionState::Finished,
            Ok(n) => self.received.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let in_time = Instant::now() < self.deadline;
                return if in_time { ConnectionState::HalfOpen } else { ConnectionState::Finished };
            }
            Err(_) => return ConnectionState::Finished,
        }
        match self.welcomed.take() {
            None => self.answer_greeting(acceptor),
            Some(welcomed) => self.answer_proof(acceptor, welcomed),
        }
    }

    fn answer_greeting(&mut self, acceptor: &Acceptor) -> ConnectionState {
        let greeting = match parse_greeting(&self.received) {
            ParsedGreeting::Incomplete => return ConnectionState::HalfOpen,
            ParsedGreeting::Garbage => {
                tracing::warn!(address = %self.address, "a stranger called on the ring's port");
                return ConnectionState::Finished;
            }
            ParsedGreeting::OtherVersion(theirs) => {
                tracing::warn!(
                    address = %self.address,
                    ours = GREETING_VERSION,
                    theirs,
                    "refused a caller of another wire version"
                );
                self.send_bytes(&encode_preface(self.received[6], Verdict::Refused));
                return ConnectionState::Finished;
            }
            ParsedGreeting::Greeting(greeting, _) => greeting,
        };
        let (reply, refusal) = acceptor.reply_to(&greeting);
        if let Some(reason) = refusal {
            acceptor.record_refusal(&greeting, &reason);
        }
        let sent = reply.greeting.encode(reply.verdict);
        if !self.send_bytes(&sent) || reply.verdict != Verdict::Welcome {
            return ConnectionState::Finished;
        }
        let transcript = [std::mem::take(&mut self.received), sent].concat();
        self.welcomed = Some(WelcomedGreeting { greeting: *greeting, transcript, key: reply.key });
        ConnectionState::HalfOpen
    }

    fn answer_proof(&mut self, acceptor: &Acceptor, welcomed: WelcomedGreeting) -> ConnectionState {
        if self.received.len() < PROOF_BYTES {
            self.welcomed = Some(welcomed);
            return ConnectionState::HalfOpen;
        }
        let WelcomedGreeting { greeting, transcript, key } = welcomed;
        let mut last_message = [NOT_ACCEPTED; LAST_MESSAGE_BYTES];
        if !verify_proof(key.as_ref(), Side::Dialer, &transcript, &self.received) {
            acceptor.record_refusal(&greeting, "it does not hold this group's key");
            self.send_bytes(&last_message);
            return ConnectionState::Finished;
        }
        last_message[0] = ACCEPTED;
        last_message[1..].copy_from_slice(&make_proof(key.as_ref(), Side::Acceptor, &transcript));
        if let Ok(stream) = self.stream.try_clone() {
            acceptor.admit(&greeting, stream, &last_message);
        }
        ConnectionState::Finished
    }

    /// Sends a few bytes. They fit into the empty socket buffer, unless the caller has hung up.
    fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        matches!(self.stream.write(bytes), Ok(n) if n == bytes.len())
    }
}
