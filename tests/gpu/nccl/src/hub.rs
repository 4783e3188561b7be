//! The hub of a group, in the process of the rank that made the group's id, on loopback. It knows two things: an exchange, in which
//! every rank gets the bytes of all, and a message from one rank to another. The ranks do everything else.
//!
//! As with NCCL inside of a machine, nobody is told of a rank that dies: the others wait until they are aborted.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Longest parts of an exchange or a message, in bytes.
const MAX_BYTES: u64 = 1 << 32;

/// What a rank asks of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    Exchange,
    Send { to: u32 },
    Receive { from: u32 },
}

impl Request {
    fn to_bytes(self, length: usize) -> [u8; 16] {
        let (kind, peer) = match self {
            Self::Exchange => (0, 0),
            Self::Send { to } => (1, to),
            Self::Receive { from } => (2, from),
        };
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&u32::to_le_bytes(kind));
        bytes[4..8].copy_from_slice(&peer.to_le_bytes());
        bytes[8..].copy_from_slice(&(length as u64).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; 16]) -> Option<(Self, usize)> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let length = u64::from(word(8)) | u64::from(word(12)) << 32;
        let request = match word(0) {
            0 => Self::Exchange,
            1 => Self::Send { to: word(4) },
            2 => Self::Receive { from: word(4) },
            _ => return None,
        };
        (length <= MAX_BYTES).then_some((request, length as usize))
    }
}

/// Parts of an exchange by rank, or a message.
#[derive(Default)]
struct Meeting {
    parts: HashMap<u32, Vec<u8>>,
    /// Number of ranks that have not read the result yet.
    left: u32,
}

#[derive(Default)]
struct Table {
    exchanges: HashMap<u64, Meeting>,
    messages: HashMap<(u32, u32, u64), Vec<u8>>,
}

#[derive(Default)]
struct Hub {
    table: Mutex<Table>,
    changed: Condvar,
}

/// Opens a hub, which ends when all its ranks have left. Returns its address.
pub(crate) fn open() -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || gather(&listener));
    Ok(address)
}

/// Waits for all ranks of the group, and then serves each in a thread.
fn gather(listener: &TcpListener) {
    let mut sockets: HashMap<u32, TcpStream> = HashMap::new();
    loop {
        let Ok((mut socket, _)) = listener.accept() else { return };
        let mut hello = [0; 8];
        if socket.read_exact(&mut hello).is_err() {
            continue;
        }
        let [rank, ranks] =
            [0, 4].map(|at| u32::from_le_bytes([hello[at], hello[at + 1], hello[at + 2], hello[at + 3]]));
        socket.set_nodelay(true).ok();
        sockets.insert(rank, socket);
        if sockets.len() == ranks as usize {
            break;
        }
    }
    let (hub, ranks) = (Arc::new(Hub::default()), sockets.len() as u32);
    for (rank, mut socket) in sockets {
        let hub = hub.clone();
        std::thread::spawn(move || {
            if socket.write_all(&[1]).is_ok() {
                // A rank that leaves, or dies, only ends its own connection.
                hub.serve(rank, ranks, &mut socket).ok();
            }
        });
    }
}

impl Hub {
    fn serve(&self, rank: u32, ranks: u32, socket: &mut TcpStream) -> std::io::Result<()> {
        let mut exchanges = 0;
        let mut messages: HashMap<Request, u64> = HashMap::new();
        loop {
            let mut head = [0; 16];
            socket.read_exact(&mut head)?;
            let Some((request, length)) = Request::from_bytes(head) else { return Ok(()) };
            let mut bytes = vec![0; length];
            socket.read_exact(&mut bytes)?;
            let number = messages.entry(request).or_default();
            *number += 1;
            let answer = match request {
                Request::Exchange => {
                    exchanges += 1;
                    self.exchange(exchanges, rank, ranks, bytes)
                }
                Request::Send { to } => {
                    let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
                    table.messages.insert((rank, to, *number), bytes);
                    self.changed.notify_all();
                    Vec::new()
                }
                Request::Receive { from } => self.receive((from, rank, *number)),
            };
            socket.write_all(&(answer.len() as u64).to_le_bytes())?;
            socket.write_all(&answer)?;
        }
    }

    /// Returns the parts of all ranks, each after its length.
    fn exchange(&self, number: u64, rank: u32, ranks: u32, bytes: Vec<u8>) -> Vec<u8> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let meeting = table.exchanges.entry(number).or_insert_with(|| Meeting { left: ranks, ..Meeting::default() });
        meeting.parts.insert(rank, bytes);
        self.changed.notify_all();
        loop {
            if let Some(meeting) = table.exchanges.get_mut(&number)
                && meeting.parts.len() == ranks as usize
            {
                let parts = (0..ranks).filter_map(|rank| meeting.parts.get(&rank));
                let all = parts.flat_map(|part| [(part.len() as u64).to_le_bytes().to_vec(), part.clone()].concat());
                let all = all.collect();
                meeting.left -= 1;
                if meeting.left == 0 {
                    table.exchanges.remove(&number);
                }
                return all;
            }
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn receive(&self, key: (u32, u32, u64)) -> Vec<u8> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(message) = table.messages.remove(&key) {
                return message;
            }
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Asks the hub, and returns its answer.
pub(crate) fn ask(mut socket: &TcpStream, request: Request, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    socket.write_all(&request.to_bytes(bytes.len()))?;
    socket.write_all(bytes)?;
    let mut length = [0; 8];
    socket.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_BYTES {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length as usize];
    socket.read_exact(&mut answer)?;
    Ok(answer)
}

/// Splits the answer to an exchange into the parts of the ranks.
pub(crate) fn split(answer: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), answer);
    while let Some((length, after)) = rest.split_first_chunk::<8>() {
        let (part, after) = after.split_at((u64::from_le_bytes(*length) as usize).min(after.len()));
        parts.push(part);
        rest = after;
    }
    parts
}
