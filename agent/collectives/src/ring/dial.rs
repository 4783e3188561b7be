//! Dialling another rank: connect, exchange greetings and proofs, and be accepted, within a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, Socket, Type};

use crate::abort::{AbortSwitch, sleep_on};
use crate::error::CollectiveError;
use crate::ring::greeting::{
    GREETING_VERSION, Greeting, GreetingMatch, MAX_GREETING_BYTES, PREFACE_BYTES, ParsedGreeting, Verdict,
    parse_greeting,
};
use crate::ring::handshake::{ACCEPTED, LAST_MESSAGE_BYTES};
use crate::ring::key::{LinkKey, Side, make_proof, verify_proof};

/// Most addresses of one host name that a rank tries in one call.
const MAX_ADDRESSES: usize = 4;

/// Result of one call.
pub(crate) enum DialOutcome {
    /// The link, and the greeting of the other side.
    Linked(TcpStream, Box<Greeting>),
    /// Reason for which the rank should call again later.
    RetryLater(String),
}

/// Moment at which a call ends, and the switch that ends it earlier.
#[derive(Clone, Copy)]
pub(crate) struct Deadline<'a> {
    pub(crate) at: Instant,
    pub(crate) abort: &'a AbortSwitch,
}

/// Reason for which a call failed. After an I/O error the rank may call again.
enum DialError {
    Io(io::Error),
    Fatal(CollectiveError),
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Dials `address` and sends the greeting `ours`, which names the rank that should answer.
///
/// # Errors
/// `Mismatch` if calling again could not help, and `Aborted`.
pub(crate) fn dial(
    address: &str,
    ours: &Greeting,
    key: Option<&LinkKey>,
    deadline: Deadline<'_>,
) -> Result<DialOutcome, CollectiveError> {
    let mut reason = format!("{address} has no address");
    let addresses = match resolve(address) {
        Ok(addresses) => addresses,
        Err(error) => return Ok(DialOutcome::RetryLater(format!("resolve {address}: {error}"))),
    };
    for socket in addresses.into_iter().take(MAX_ADDRESSES) {
        match connect(socket, deadline).and_then(|stream| shake_hands(stream, ours, key, deadline)) {
            Ok(DialOutcome::RetryLater(cause)) => reason = cause,
            Ok(linked) => return Ok(linked),
            Err(DialError::Fatal(error)) => return Err(error),
            Err(DialError::Io(error)) => reason = format!("{socket}: {error}"),
        }
    }
    deadline.abort.check()?;
    Ok(DialOutcome::RetryLater(reason))
}

/// Resolves `host:port`. The rank looks a name up for each call, because the address of a name changes with its pod.
pub(crate) fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    match address.parse() {
        Ok(address) => Ok(vec![address]),
        Err(_) => Ok(address.to_socket_addrs()?.collect()),
    }
}

fn connect(address: SocketAddr, deadline: Deadline<'_>) -> Result<TcpStream, DialError> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            let stream = TcpStream::from(socket);
            deadline.wait_ready(&stream, PollFlags::OUT)?;
            if let Some(error) = stream.take_error()? {
                return Err(error.into());
            }
            return refuse_self_connection(stream);
        }
        Err(error) => return Err(error.into()),
    }
    refuse_self_connection(TcpStream::from(socket))
}

/// Refuses a stream that leads to itself. A socket that dials a free port of its own host may get that very port as its
/// local port, and so reach itself.
fn refuse_self_connection(stream: TcpStream) -> Result<TcpStream, DialError> {
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
    }
    Ok(stream)
}

fn shake_hands(
    mut stream: TcpStream,
    ours: &Greeting,
    key: Option<&LinkKey>,
    deadline: Deadline<'_>,
) -> Result<DialOutcome, DialError> {
    let rank = ours.to;
    let mismatch = |reason: String| DialError::Fatal(CollectiveError::Mismatch { rank, reason });
    let sent = ours.encode(Verdict::Welcome);
    deadline.write_all(&mut stream, &sent)?;
    let received = read_greeting(&mut stream, deadline)?;
    let (theirs, verdict) = match parse_greeting(&received) {
        ParsedGreeting::Greeting(theirs, verdict) => (theirs, verdict),
        ParsedGreeting::OtherVersion(version) => {
            return Err(mismatch(format!("the wire version is {GREETING_VERSION} here and {version} there")));
        }
        ParsedGreeting::Incomplete | ParsedGreeting::Garbage => {
            return Err(mismatch("the peer does not answer like a Lockstep rank".into()));
        }
    };
    match (verdict, ours.match_peer(&theirs)) {
        (Verdict::NotYet, _) => {
            return Ok(DialOutcome::RetryLater(format!("rank {rank} is not ready to link")));
        }
        (_, GreetingMatch::Mismatch(reason) | GreetingMatch::NotYet(reason)) => return Err(mismatch(reason)),
        (Verdict::Refused, GreetingMatch::Matches) => return Err(mismatch("it refuses the link".into())),
        (Verdict::Welcome, GreetingMatch::Matches) => {}
    }
    let transcript = [sent, received].concat();
    deadline.write_all(&mut stream, &make_proof(key, Side::Dialer, &transcript))?;
    let mut last_message = [0; LAST_MESSAGE_BYTES];
    deadline.read_exact(&mut stream, &mut last_message)?;
    if last_message[0] != ACCEPTED {
        return Err(mismatch("it does not accept this rank's group key: give every rank the same".into()));
    }
    if !verify_proof(key, Side::Acceptor, &transcript, &last_message[1..]) {
        return Err(mismatch("it does not hold this group's key".into()));
    }
    Ok(DialOutcome::Linked(stream, theirs))
}

/// Reads the other side's greeting. Stops early at bytes that cannot become a greeting.
fn read_greeting(stream: &mut TcpStream, deadline: Deadline<'_>) -> Result<Vec<u8>, DialError> {
    let mut received = vec![0; PREFACE_BYTES];
    deadline.read_exact(stream, &mut received)?;
    while parse_greeting(&received) == ParsedGreeting::Incomplete && received.len() < MAX_GREETING_BYTES {
        let wanted = match received.get(PREFACE_BYTES..PREFACE_BYTES + 2) {
            None => PREFACE_BYTES + 2,
            Some(length) => PREFACE_BYTES + 2 + usize::from(u16::from_le_bytes([length[0], length[1]])),
        };
        let known = received.len();
        received.resize(wanted.min(MAX_GREETING_BYTES), 0);
        deadline.read_exact(stream, &mut received[known..])?;
    }
    Ok(received)
}

impl Deadline<'_> {
    /// Sleeps until `stream` is ready.
    fn wait_ready(self, stream: &TcpStream, flags: PollFlags) -> Result<(), DialError> {
        let remaining = self.at.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        let mut fds = [PollFd::new(stream, flags), self.abort.poll_fd()];
        sleep_on(&mut fds, remaining)?;
        self.abort.check().map_err(DialError::Fatal)
    }

    fn write_all(self, stream: &mut TcpStream, mut bytes: &[u8]) -> Result<(), DialError> {
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_ready(stream, PollFlags::OUT)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_exact(self, stream: &mut TcpStream, bytes: &mut [u8]) -> Result<(), DialError> {
        let mut done = 0;
        while done < bytes.len() {
            match stream.read(&mut bytes[done..]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_ready(stream, PollFlags::IN)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
