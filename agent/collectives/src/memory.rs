//! Ranks as threads of one process, over streams in memory whose faults follow from a seed.
//!
//! Tests use this transport with the algorithms of the TCP backend. A link can cut writes short and delay bytes, so
//! that bytes of different links arrive in another order than they were sent. After a number of bytes, a link can close
//! or drop all further bytes. All of this follows from [`Faults`] and from the calls, not from the clock.

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

/// Most bytes in flight on one direction of a link, like a socket's buffer.
const PIPE_BYTES: usize = 256 << 10;

/// Faults and settings of a group of [`form_group`].
#[derive(Debug, Clone)]
pub struct Faults {
    /// Seed of the delays and the short writes. With the same calls they are the same.
    pub seed: u64,
    /// Largest number of the receiver's reads that do not find a chunk yet; 0 delays nothing.
    pub max_delay: u32,
    /// Set if writes are cut short at random.
    pub short_writes: bool,
    /// Link that fails, if any.
    pub cut: Option<Cut>,
    /// Time after which an operation fails if no byte has moved.
    pub op_timeout: Duration,
    /// Sizes at which the all-reduce changes its algorithm.
    pub tuning: Tuning,
    /// Counters that grow with the ranks' operations, one per rank. Empty if the test needs none.
    pub progress: Vec<Arc<AtomicU64>>,
}

impl Default for Faults {
    /// Returns settings without faults.
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

/// Failure of one direction of a link, after a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub from: usize,
    pub to: usize,
    pub after_bytes: u64,
    pub kind: CutKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutKind {
    /// Further bytes vanish.
    Drop,
    /// The receiver sees the end of the stream.
    Close,
}

/// Forms a group of `world_size` ranks. Returns their communicators in rank order, for one thread each.
///
/// # Errors
/// `world_size` is 0, or the process has no file descriptors left.
pub fn form_group(world_size: usize, faults: &Faults) -> Result<Vec<Mesh>, CollectiveError> {
    if world_size == 0 {
        return Err(CollectiveError::Usage("a group has at least one rank".into()));
    }
    let pipes = Arc::new(Pipes::new(world_size, faults)?);
    (0..world_size)
        .filter_map(|rank| RankGroup::new(rank, world_size))
        .map(|group| {
            let abort = AbortSwitch::new()?;
            let progress = faults.progress.get(group.rank()).cloned();
            let settings = MeshSettings { op_timeout: faults.op_timeout, spin: false, progress };
            let links = MemoryLinks { rank: group.rank(), pipes: pipes.clone() };
            Ok(Mesh::new(links, group, faults.tuning, settings, &abort))
        })
        .collect()
}

/// All pipes of a group.
#[derive(Debug)]
struct Pipes {
    pipes: Mutex<Vec<Pipe>>,
    /// Signalled for a rank when one of its links may be ready.
    wakeups: Vec<Wakeup>,
    world_size: usize,
}

/// One direction of one link.
#[derive(Debug)]
struct Pipe {
    chunks: VecDeque<Chunk>,
    /// Bytes in `chunks`.
    buffered: usize,
    /// Bytes sent so far, including dropped ones.
    sent: u64,
    closed: bool,
    random: Random,
    max_delay: u32,
    short_writes: bool,
    /// Number of bytes after which the pipe fails, and the kind of the failure.
    cut: Option<(u64, CutKind)>,
}

#[derive(Debug)]
struct Chunk {
    /// Number of the receiver's next reads that do not find the chunk yet.
    hidden_for: u32,
    bytes: VecDeque<u8>,
}

/// Random numbers that a test can replay: Vigna's splitmix64.
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

    /// Returns a number below `bound`, which is not 0.
    fn next_below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

impl Pipes {
    fn new(world_size: usize, faults: &Faults) -> Result<Self, CollectiveError> {
        let pipe = |index: usize| {
            let (from, to) = (index / world_size, index % world_size);
            let cut = faults.cut.filter(|cut| (cut.from, cut.to) == (from, to));
            Pipe {
                chunks: VecDeque::new(),
                buffered: 0,
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

    /// Locks the pipes. A test thread that panicked leaves them consistent, so a poisoned lock is ignored.
    fn lock(&self) -> MutexGuard<'_, Vec<Pipe>> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipe {
    fn write_bytes(&mut self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut fits = (head.len() + body.len()).min(PIPE_BYTES - self.buffered);
        if self.short_writes && fits > 1 {
            fits = 1 + usize::try_from(self.random.next_below(fits as u64)).unwrap_or_default();
        }
        if fits == 0 {
            return Ok(0);
        }
        let mut bytes: VecDeque<u8> = head.iter().chain(body).take(fits).copied().collect();
        if let Some((after, kind)) = self.cut {
            let remaining = usize::try_from(after.saturating_sub(self.sent)).unwrap_or(usize::MAX);
            self.closed = kind == CutKind::Close && bytes.len() > remaining;
            bytes.truncate(remaining);
        }
        self.sent += fits as u64;
        if !bytes.is_empty() {
            self.buffered += bytes.len();
            let hidden_for =
                if self.max_delay == 0 { 0 } else { self.random.next_below(u64::from(self.max_delay) + 1) };
            self.chunks.push_back(Chunk { hidden_for: u32::try_from(hidden_for).unwrap_or_default(), bytes });
        }
        Ok(fits)
    }

    fn read_bytes(&mut self, head: &mut [u8], body: &mut [u8]) -> io::Result<usize> {
        let Some(chunk) = self.chunks.front_mut() else {
            return if self.closed { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(0) };
        };
        if chunk.hidden_for > 0 {
            chunk.hidden_for -= 1;
            return Ok(0);
        }
        let mut got = io::Read::read(&mut chunk.bytes, head)?;
        if got == head.len() {
            // A `VecDeque` may need a second read for its second half.
            got += io::Read::read(&mut chunk.bytes, body)?;
        }
        if chunk.bytes.is_empty() {
            self.chunks.pop_front();
        }
        self.buffered -= got;
        Ok(got)
    }
}

/// Ends of the pipes that belong to one rank.
#[derive(Debug)]
struct MemoryLinks {
    rank: usize,
    pipes: Arc<Pipes>,
}

impl MemoryLinks {
    fn pipe_index(&self, from: usize, to: usize) -> usize {
        from * self.pipes.world_size + to
    }
}

impl Transport for MemoryLinks {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn try_send(&mut self, peer: usize, head: &[u8], body: &[u8]) -> io::Result<usize> {
        let index = self.pipe_index(self.rank, peer);
        let sent = self.pipes.lock()[index].write_bytes(head, body)?;
        if sent > 0 {
            self.pipes.wakeups[peer].signal();
        }
        Ok(sent)
    }

    fn try_recv(&mut self, peer: usize, head: &mut [u8], body: &mut [u8]) -> io::Result<usize> {
        let index = self.pipe_index(peer, self.rank);
        let got = self.pipes.lock()[index].read_bytes(head, body)?;
        if got > 0 {
            self.pipes.wakeups[peer].signal();
        }
        Ok(got)
    }

    fn wait(&mut self, interest: &[Interest], abort: &AbortSwitch, timeout: Duration) -> io::Result<()> {
        let wakeup = &self.pipes.wakeups[self.rank];
        wakeup.clear();
        let movable = |(peer, interest): (usize, &Interest)| {
            let pipes = self.pipes.lock();
            let (into, out) = (&pipes[self.pipe_index(peer, self.rank)], &pipes[self.pipe_index(self.rank, peer)]);
            (interest.readable && (into.closed || !into.chunks.is_empty()))
                || (interest.writable && (out.closed || out.buffered < PIPE_BYTES))
        };
        if interest.iter().enumerate().any(movable) {
            std::thread::yield_now();
            return Ok(());
        }
        let wakeup = rustix::event::PollFd::from_borrowed_fd(wakeup.fd(), rustix::event::PollFlags::IN);
        sleep_on(&mut [wakeup, abort.poll_fd()], timeout)
    }

    fn close(&mut self) {
        let ranks = self.pipes.world_size;
        let mut pipes = self.pipes.lock();
        for peer in 0..ranks {
            pipes[self.pipe_index(self.rank, peer)].closed = true;
            pipes[self.pipe_index(peer, self.rank)].closed = true;
        }
        drop(pipes);
        self.pipes.wakeups.iter().for_each(Wakeup::signal);
    }
}

impl Drop for MemoryLinks {
    fn drop(&mut self) {
        self.close();
    }
}
