//! Calling another rank: connect, greet, prove, be accepted, all within a deadline and open to an abort.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, Socket, Type};

use crate::abort::{AbortSwitch, sleep_on};
use crate::communicator::CollectiveError;
use crate::ring::greeting::{Fit, Greeting, Heard, LONGEST_GREETING, PREFACE_BYTES, Verdict, WIRE_VERSION, hear};
use crate::ring::key::{GroupKey, Side, prove, proves};
use crate::ring::listener::{ACCEPTED, LAST_WORD_BYTES};

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 4;

/// What became of a call.
pub(crate) enum Call {
    /// The link and what the other side said.
    Linked(TcpStream, Box<Greeting>),
    /// Worth trying again, and why.
    Later(String),
}

/// One call's limits.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'a> {
    pub(crate) until: Instant,
    pub(crate) abort: &'a AbortSwitch,
}

/// Why a call ended early.
enum Trouble {
    Io(io::Error),
    Fatal(CollectiveError),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Calls `address` with the words `ours`, which name the rank that should answer.
///
/// # Errors
/// `Mismatch` where calling again could not help, `Aborted`.
pub(crate) fn call(
    address: &str,
    ours: &Greeting,
    key: Option<&GroupKey>,
    patience: Patience<'_>,
) -> Result<Call, CollectiveError> {
    let mut reason = format!("{address} has no address");
    let addresses = match resolve(address) {
        Ok(addresses) => addresses,
        Err(error) => return Ok(Call::Later(format!("resolve {address}: {error}"))),
    };
    for socket in addresses.into_iter().take(MOST_ADDRESSES) {
        match connect(socket, patience).and_then(|stream| shake_hands(stream, ours, key, patience)) {
            Ok(Call::Later(why)) => reason = why,
            Ok(linked) => return Ok(linked),
            Err(Trouble::Fatal(error)) => return Err(error),
            Err(Trouble::Io(error)) => reason = format!("{socket}: {error}"),
        }
    }
    patience.abort.check()?;
    Ok(Call::Later(reason))
}

/// `host:port` to addresses; names are looked up anew each time, because they move with their pods.
pub(crate) fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    match address.parse() {
        Ok(address) => Ok(vec![address]),
        Err(_) => Ok(address.to_socket_addrs()?.collect()),
    }
}

fn connect(address: SocketAddr, patience: Patience<'_>) -> Result<TcpStream, Trouble> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            let stream = TcpStream::from(socket);
            patience.wait(&stream, PollFlags::OUT)?;
            if let Some(error) = stream.take_error()? {
                return Err(error.into());
            }
            return not_itself(stream);
        }
        Err(error) => return Err(error.into()),
    }
    not_itself(TcpStream::from(socket))
}

/// A socket that calls a free port of its own host may be given that port and reach itself.
fn not_itself(stream: TcpStream) -> Result<TcpStream, Trouble> {
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
    }
    Ok(stream)
}

fn shake_hands(
    mut stream: TcpStream,
    ours: &Greeting,
    key: Option<&GroupKey>,
    patience: Patience<'_>,
) -> Result<Call, Trouble> {
    let rank = ours.to;
    let mismatch = |reason: String| Trouble::Fatal(CollectiveError::Mismatch { rank, reason });
    let words = ours.encode(Verdict::Welcome);
    patience.write(&mut stream, &words)?;
    let heard = read_greeting(&mut stream, patience)?;
    let (theirs, verdict) = match hear(&heard) {
        Heard::Greeting(theirs, verdict) => (theirs, verdict),
        Heard::Version(version) => {
            return Err(mismatch(format!("the wire version here is {WIRE_VERSION}, there {version}")));
        }
        Heard::Part | Heard::Garbage => return Err(mismatch("what listens there is no Lockstep rank".into())),
    };
    match (verdict, ours.fit(&theirs)) {
        (Verdict::NotYet, _) => return Ok(Call::Later(format!("rank {rank} is not ready to link"))),
        (_, Fit::Wrong(reason) | Fit::NotYet(reason)) => return Err(mismatch(reason)),
        (Verdict::Refused, Fit::Fits) => return Err(mismatch("it refuses this rank".into())),
        (Verdict::Welcome, Fit::Fits) => {}
    }
    let transcript = [words, heard].concat();
    patience.write(&mut stream, &prove(key, Side::Dialer, &transcript))?;
    let mut last_word = [0; LAST_WORD_BYTES];
    patience.read(&mut stream, &mut last_word)?;
    if last_word[0] != ACCEPTED {
        return Err(mismatch("it does not accept this rank's group key: give every rank the same".into()));
    }
    if !proves(key, Side::Acceptor, &transcript, &last_word[1..]) {
        return Err(mismatch("it does not hold this group's key".into()));
    }
    Ok(Call::Linked(stream, theirs))
}

/// The other side's first words, or as much as tells that they are none.
fn read_greeting(stream: &mut TcpStream, patience: Patience<'_>) -> Result<Vec<u8>, Trouble> {
    let mut heard = vec![0; PREFACE_BYTES];
    patience.read(stream, &mut heard)?;
    while hear(&heard) == Heard::Part && heard.len() < LONGEST_GREETING {
        let wanted = match heard.get(PREFACE_BYTES..PREFACE_BYTES + 2) {
            None => PREFACE_BYTES + 2,
            Some(length) => PREFACE_BYTES + 2 + usize::from(u16::from_le_bytes([length[0], length[1]])),
        };
        let known = heard.len();
        heard.resize(wanted.min(LONGEST_GREETING), 0);
        patience.read(stream, &mut heard[known..])?;
    }
    Ok(heard)
}

impl Patience<'_> {
    /// Sleeps until `stream` is ready.
    fn wait(self, stream: &TcpStream, flags: PollFlags) -> Result<(), Trouble> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        let mut fds = [PollFd::new(stream, flags), self.abort.poll_fd()];
        sleep_on(&mut fds, left)?;
        self.abort.check().map_err(Trouble::Fatal)
    }

    fn write(self, stream: &mut TcpStream, mut bytes: &[u8]) -> Result<(), Trouble> {
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(stream, PollFlags::OUT)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read(self, stream: &mut TcpStream, bytes: &mut [u8]) -> Result<(), Trouble> {
        let mut done = 0;
        while done < bytes.len() {
            match stream.read(&mut bytes[done..]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(stream, PollFlags::IN)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
