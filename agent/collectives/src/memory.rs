//! Ranks as threads of one process, over streams in memory that misbehave as a seed says.
//!
//! For tests: the algorithms are those of the ring, and what a link does (short writes, delays that reorder it against
//! other links, silence or closing after so many bytes) follows from the seed and the calls made, not from the clock.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::abort::{AbortSwitch, Wakeup, sleep_on};
use crate::error::CollectiveError;
use crate::mesh::{Mesh, MeshSettings, Tuning};
use crate::rank_group::RankGroup;
use crate::transport::{Interest, Transport};

/// Bytes in flight on one direction of a link, like a socket's buffer.
const PIPE_BYTES: usize = 256 << 10;

/// What goes wrong in a group of [`form_group`].
#[derive(Debug, Clone)]
pub struct Faults {
    /// Same seed, same calls: same delays and short writes.
    pub seed: u64,
    /// A chunk stays hidden for up to so many looks of its receiver; 0: none does.
    pub max_delay: u32,
    /// Bytes taken in one write are cut at random.
    pub short_writes: bool,
    /// A link that ends.
    pub cut: Option<Cut>,
    /// Each operation's deadline.
    pub op_timeout: Duration,
    /// Sizes at which the algorithms change.
    pub tuning: Tuning,
    /// What each rank's operations move, one entry a rank; empty: nothing.
    pub progress: Vec<Arc<AtomicU64>>,
}

impl Default for Faults {
    /// A group in which nothing goes wrong.
    fn default() -> Self {
        Self {
            seed: 0,
            max_delay: 0,
            short_writes: false,
            cut: None,
            op_timeout: Duration::from_secs(30),
            tuning: Tuning::default(),
            progress: Vec::new(),
        }
    }
}

/// The direction from one rank to another ends after so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub from: usize,
    pub to: usize,
    pub after_bytes: u64,
    pub kind: CutKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutKind {
    /// What is sent vanishes.
    Drop,
    /// The receiver sees the end of the stream.
    Close,
}

/// The communicators of `world_size` ranks, in rank order, for one thread each.
///
/// # Errors
/// When `world_size` is 0, or the process has no file descriptors left.
pub fn form_group(world_size: usize, faults: &Faults) -> Result<Vec<Mesh>, CollectiveError> {
    if world_size == 0 {
        return Err(CollectiveError::Usage("a group has at least one rank".into()));
    }
    let switchboard = Arc::new(Switchboard::new(world_size, faults)?);
    (0..world_size)
        .filter_map(|rank| RankGroup::new(rank, world_size))
        .map(|group| {
            let abort = AbortSwitch::new()?;
            let progress = faults.progress.get(group.rank()).cloned();
            let settings = MeshSettings { op_timeout: faults.op_timeout, spin: false, progress };
            let links = Links { rank: group.rank(), switchboard: switchboard.clone() };
            Ok(Mesh::new(links, group, faults.tuning, settings, &abort))
        })
        .collect()
}

/// All pipes of a group.
#[derive(Debug)]
struct Switchboard {
    pipes: Mutex<Vec<Pipe>>,
    /// Rung for a rank when one of its links may move.
    wakeups: Vec<Wakeup>,
    world_size: usize,
}

/// One direction of one link.
#[derive(Debug)]
struct Pipe {
    chunks: VecDeque<Chunk>,
    held: usize,
    sent: u64,
    closed: bool,
    random: Random,
    max_delay: u32,
    short_writes: bool,
    cut: Option<(u64, CutKind)>,
}

#[derive(Debug)]
struct Chunk {
    /// Looks of the receiver that find nothing yet.
    hidden_for: u32,
    bytes: VecDeque<u8>,
}

/// Vigna's splitmix64: all that a replayable test needs.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

impl Switchboard {
    fn new(world_size: usize, faults: &Faults) -> Result<Self, CollectiveError> {
        let pipe = |index: usize| {
            let (from, to) = (index / world_size, index % world_size);
            let cut = faults.cut.filter(|cut| (cut.from, cut.to) == (from, to));
            Pipe {
                chunks: VecDeque::new(),
                held: 0,
                sent: 0,
                closed: false,
                random: Random(faults.seed ^ (index as u64).wrapping_mul(0xd134_2543_de82_ef95)),
                max_delay: faults.max_delay,
                short_writes: faults.short_writes,
                cut: cut.map(|cut| (cut.after_bytes, cut.kind)),
            }
        };
        let wakeups = (0..world_size).map(|_| Wakeup::new()).collect::<io::Result<_>>();
        let wakeups = wakeups.map_err(|error| CollectiveError::Unavailable {
            backend: "memory",
            reason: format!("make the ranks' wakeups: {error}; raise the limit on open files"),
        })?;
        Ok(Self { pipes: Mutex::new((0..world_size * world_size).map(pipe).collect()), wakeups, world_size })
    }

    /// The pipes; a test thread that panicked leaves them whole, so its poison is ignored.
    fn pipes(&self) -> MutexGuard<'_, Vec<Pipe>> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipe {
    fn write(&mut self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut fits = (head.len() + body.len()).min(PIPE_BYTES - self.held);
        if self.short_writes && fits > 1 {
            fits = 1 + usize::try_from(self.random.below(fits as u64)).unwrap_or_default();
        }
        if fits == 0 {
            return Ok(0);
        }
        let mut bytes: VecDeque<u8> = head.iter().chain(body).take(fits).copied().collect();
        if let Some((after, kind)) = self.cut {
            let left = usize::try_from(after.saturating_sub(self.sent)).unwrap_or(usize::MAX);
            self.closed = kind == CutKind::Close && bytes.len() > left;
            bytes.truncate(left);
        }
        self.sent += fits as u64;
        if !bytes.is_empty() {
            self.held += bytes.len();
            let hidden_for = if self.max_delay == 0 { 0 } else { self.random.below(u64::from(self.max_delay) + 1) };
            self.chunks.push_back(Chunk { hidden_for: u32::try_from(hidden_for).unwrap_or_default(), bytes });
        }
        Ok(fits)
    }

    fn read(&mut self, head: &mut [u8], body: &mut [u8]) -> io::Result<usize> {
        let Some(chunk) = self.chunks.front_mut() else {
            return if self.closed { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(0) };
        };
        if chunk.hidden_for > 0 {
            chunk.hidden_for -= 1;
            return Ok(0);
        }
        let mut got = io::Read::read(&mut chunk.bytes, head)?;
        if got == head.len() {
            // A ring buffer of bytes reads in two halves.
            got += io::Read::read(&mut chunk.bytes, body)?;
        }
        if chunk.bytes.is_empty() {
            self.chunks.pop_front();
        }
        self.held -= got;
        Ok(got)
    }
}

/// A rank's ends of the pipes.
#[derive(Debug)]
struct Links {
    rank: usize,
    switchboard: Arc<Switchboard>,
}

impl Links {
    fn index(&self, from: usize, to: usize) -> usize {
        from * self.switchboard.world_size + to
    }
}

impl Transport for Links {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn try_send(&mut self, peer: usize, head: &[u8], body: &[u8]) -> io::Result<usize> {
        let index = self.index(self.rank, peer);
        let sent = self.switchboard.pipes()[index].write(head, body)?;
        if sent > 0 {
            self.switchboard.wakeups[peer].signal();
        }
        Ok(sent)
    }

    fn try_recv(&mut self, peer: usize, head: &mut [u8], body: &mut [u8]) -> io::Result<usize> {
        let index = self.index(peer, self.rank);
        let got = self.switchboard.pipes()[index].read(head, body)?;
        if got > 0 {
            self.switchboard.wakeups[peer].signal();
        }
        Ok(got)
    }

    fn wait(&mut self, interest: &[Interest], abort: &AbortSwitch, timeout: Duration) -> io::Result<()> {
        let wakeup = &self.switchboard.wakeups[self.rank];
        wakeup.clear();
        let movable = |(peer, interest): (usize, &Interest)| {
            let pipes = self.switchboard.pipes();
            let (into, out) = (&pipes[self.index(peer, self.rank)], &pipes[self.index(self.rank, peer)]);
            (interest.readable && (into.closed || !into.chunks.is_empty()))
                || (interest.writable && (out.closed || out.held < PIPE_BYTES))
        };
        if interest.iter().enumerate().any(movable) {
            std::thread::yield_now();
            return Ok(());
        }
        let wakeup = rustix::event::PollFd::from_borrowed_fd(wakeup.fd(), rustix::event::PollFlags::IN);
        sleep_on(&mut [wakeup, abort.poll_fd()], timeout)
    }

    fn close(&mut self) {
        let ranks = self.switchboard.world_size;
        let mut pipes = self.switchboard.pipes();
        for peer in 0..ranks {
            pipes[self.index(self.rank, peer)].closed = true;
            pipes[self.index(peer, self.rank)].closed = true;
        }
        drop(pipes);
        self.switchboard.wakeups.iter().for_each(Wakeup::signal);
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.close();
    }
}
