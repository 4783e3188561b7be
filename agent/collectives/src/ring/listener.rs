//! The port on which a rank takes links and bootstrap calls, through all epochs.
//!
//! One thread answers. A stranger costs at most one of a bounded number of half-open places for a bounded time, so it
//! can neither stall nor break forming.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::abort::{AbortSwitch, sleep_on};
use crate::communicator::CollectiveError;
use crate::ring::desk::Desk;
use crate::ring::greeting::{Greeting, Heard, LONGEST_GREETING, Verdict, WIRE_VERSION, hear, preface};
use crate::ring::key::{GroupKey, PROOF_BYTES, Side, prove, proves};

/// A connection that has not proved itself by then is closed.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections that have yet to prove themselves; one more closes the oldest.
const MOST_HALF_OPEN: usize = 64;

/// Connections taken between two looks at those that are there.
const MOST_ACCEPTED_AT_ONCE: usize = 16;

/// Pause after the system refused to accept (no descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The last word of a handshake: this byte, then the acceptor's proof.
pub(crate) const ACCEPTED: u8 = 1;
pub(crate) const NOT_ACCEPTED: u8 = 2;
pub(crate) const LAST_WORD_BYTES: usize = 1 + PROOF_BYTES;

/// A bound port; dropping it ends its thread.
#[derive(Debug)]
pub struct Listener {
    pub(crate) desk: Arc<Desk>,
    stop: AbortSwitch,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Binds `address` (port 0: any free one) and begins to answer.
    pub fn bind(address: SocketAddr) -> Result<Self, CollectiveError> {
        let unavailable = |error: io::Error| CollectiveError::Unavailable {
            backend: "ring",
            reason: format!("listen on {address}: {error}; choose another port or end what holds it"),
        };
        let listener = TcpListener::bind(address).map_err(unavailable)?;
        listener.set_nonblocking(true).map_err(unavailable)?;
        let address = listener.local_addr().map_err(unavailable)?;
        let desk = Arc::new(Desk::new().map_err(unavailable)?);
        let stop = AbortSwitch::new()?;
        let reception = Reception { listener, desk: desk.clone(), stop: stop.clone(), callers: VecDeque::new() };
        let thread = std::thread::Builder::new()
            .name("ring-listener".into())
            .spawn(move || reception.run())
            .map_err(unavailable)?;
        Ok(Self { desk, stop, address, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.abort("the listener was dropped");
        if let Some(thread) = self.thread.take() {
            // It panicked or it ended: it is over either way.
            let _ = thread.join();
        }
    }
}

/// The listener's thread.
struct Reception {
    listener: TcpListener,
    desk: Arc<Desk>,
    stop: AbortSwitch,
    callers: VecDeque<Caller>,
}

/// A connection that has not proved itself.
struct Caller {
    stream: TcpStream,
    address: SocketAddr,
    until: Instant,
    inbox: Vec<u8>,
    /// What it said, once it was welcomed.
    welcomed: Option<Welcomed>,
}

struct Welcomed {
    greeting: Greeting,
    transcript: Vec<u8>,
    key: Option<GroupKey>,
}

/// Whether a caller is still awaited.
#[derive(PartialEq, Eq)]
enum Next {
    More,
    Over,
}

impl Reception {
    fn run(mut self) {
        while self.stop.reason().is_none() {
            let accepting = self.accept();
            let desk = &self.desk;
            self.callers.retain_mut(|caller| caller.step(desk) == Next::More);
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
        fds.extend(self.callers.iter().map(|caller| PollFd::new(&caller.stream, PollFlags::IN)));
        let now = Instant::now();
        let next = self.callers.iter().map(|caller| caller.until.saturating_duration_since(now)).min();
        sleep_on(&mut fds, next.unwrap_or(longest).min(longest) + Duration::from_millis(1))
    }

    /// Takes new callers; false when the system cannot give any for a while.
    fn accept(&mut self) -> bool {
        for _ in 0..MOST_ACCEPTED_AT_ONCE {
            match self.listener.accept() {
                Ok((stream, address)) => {
                    if stream.set_nonblocking(true).is_ok() {
                        self.admit(stream, address);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot take a ring connection");
                    return false;
                }
            }
        }
        true
    }

    fn admit(&mut self, stream: TcpStream, address: SocketAddr) {
        if self.callers.len() == MOST_HALF_OPEN {
            self.callers.pop_front();
        }
        // A short greeting must not wait for an acknowledgement; without the option it is merely slower.
        let _ = stream.set_nodelay(true);
        let until = Instant::now() + HANDSHAKE_TIMEOUT;
        self.callers.push_back(Caller { stream, address, until, inbox: Vec::new(), welcomed: None });
    }
}

impl Caller {
    /// Reads what came and answers it.
    fn step(&mut self, desk: &Desk) -> Next {
        let mut chunk = [0; LONGEST_GREETING];
        let room = LONGEST_GREETING + 1 - self.inbox.len();
        match self.stream.read(&mut chunk[..room.min(LONGEST_GREETING)]) {
            Ok(0) => return Next::Over,
            Ok(n) => self.inbox.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return if Instant::now() < self.until { Next::More } else { Next::Over };
            }
            Err(_) => return Next::Over,
        }
        match self.welcomed.take() {
            None => self.greet(desk),
            Some(welcomed) => self.judge(desk, welcomed),
        }
    }

    fn greet(&mut self, desk: &Desk) -> Next {
        let (greeting, _) = match hear(&self.inbox) {
            Heard::Part => return Next::More,
            Heard::Garbage => {
                tracing::warn!(address = %self.address, "a stranger called on the ring's port");
                return Next::Over;
            }
            Heard::Version(theirs) => {
                tracing::warn!(address = %self.address, ours = WIRE_VERSION, theirs, "a caller of another wire version");
                self.say(&preface(self.inbox[6], Verdict::Refused));
                return Next::Over;
            }
            Heard::Greeting(greeting, verdict) => (greeting, verdict),
        };
        let (answer, reason) = desk.answer(&greeting);
        if let Some(reason) = reason {
            desk.refuse(&greeting, &reason);
        }
        let words = answer.words.encode(answer.verdict);
        if !self.say(&words) || answer.verdict != Verdict::Welcome {
            return Next::Over;
        }
        let transcript = [std::mem::take(&mut self.inbox), words].concat();
        self.welcomed = Some(Welcomed { greeting: *greeting, transcript, key: answer.key });
        Next::More
    }

    fn judge(&mut self, desk: &Desk, welcomed: Welcomed) -> Next {
        if self.inbox.len() < PROOF_BYTES {
            self.welcomed = Some(welcomed);
            return Next::More;
        }
        let Welcomed { greeting, transcript, key } = welcomed;
        let mut last_word = [NOT_ACCEPTED; LAST_WORD_BYTES];
        if !proves(key.as_ref(), Side::Dialer, &transcript, &self.inbox) {
            desk.refuse(&greeting, "it does not hold this group's key");
            self.say(&last_word);
            return Next::Over;
        }
        last_word[0] = ACCEPTED;
        last_word[1..].copy_from_slice(&prove(key.as_ref(), Side::Acceptor, &transcript));
        if let Ok(stream) = self.stream.try_clone() {
            desk.admit(&greeting, stream, &last_word);
        }
        Next::Over
    }

    /// A few bytes into an empty socket: they fit, or the caller is gone.
    fn say(&mut self, words: &[u8]) -> bool {
        matches!(self.stream.write(words), Ok(n) if n == words.len())
    }
}
