//! Drives one operation over all links at once, full duplex, without ever blocking on one of them.
//!
//! On each link an operation is a [`Header`] followed by the pieces that its [`Plan`] names, in order. As long as bytes
//! move anywhere it goes on; when none do it spins for a short while where that was asked for, then sleeps until a link
//! can move, the group is aborted, or nothing has moved for the deadline.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::abort::AbortSwitch;
use crate::error::CollectiveError;
use crate::mesh::MeshSettings;
use crate::mesh::header::{HEADER_BYTES, Header, Operation};
use crate::mesh::spin::Spin;
use crate::rank_group::RankGroup;
use crate::transport::{Interest, Transport};

/// Bytes handed to the transport in one call: small enough that sending, receiving and summing alternate.
const MOST_AT_ONCE: usize = 512 << 10;

/// The bytes of one operation, as pieces in a fixed order on each link.
pub(crate) trait Plan {
    /// What both ends of the link to `peer` must agree on, where this rank sends to it.
    fn sends(&self, peer: usize) -> Option<Operation>;

    /// What both ends of the link must agree on, where this rank receives from `peer`.
    fn receives(&self, peer: usize) -> Option<Operation>;

    /// Piece number `index` to `peer`.
    fn outgoing(&self, peer: usize, index: usize) -> Piece<&[u8]>;

    /// Room for piece number `index` from `peer`.
    fn incoming(&mut self, peer: usize, index: usize) -> Piece<&mut [u8]>;

    /// Piece number `index` from `peer` is whole.
    fn received(&mut self, _peer: usize, _index: usize) {}
}

/// A step of a plan on one link.
pub(crate) enum Piece<T> {
    /// These bytes, next.
    Bytes(T),
    /// Something, once other pieces have come.
    Later,
    /// Nothing more.
    Done,
}

/// Progress of one direction of one link within an operation.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    header: [u8; HEADER_BYTES],
    header_done: usize,
    piece: usize,
    offset: usize,
    done: bool,
    /// Cannot move before other pieces have come.
    held: bool,
    /// Operations so far; both ends count alike.
    count: u32,
}

impl Flow {
    fn begin(&mut self, operation: Option<Operation>) {
        *self = Self { count: self.count, done: operation.is_none(), ..Self::default() };
        if let Some(operation) = operation {
            self.count = self.count.wrapping_add(1);
            self.header = Header { operation, count: self.count }.encode();
        }
    }
}

/// A time in which no byte moved.
struct Idle {
    since: Instant,
    slept: bool,
}

/// The links of one rank and the progress of its present operation on each.
pub(crate) struct Exchange {
    pub(crate) transport: Box<dyn Transport>,
    group: RankGroup,
    out: Vec<Flow>,
    into: Vec<Flow>,
    /// What each link said instead of the expected header, while it is read.
    heard: Vec<[u8; HEADER_BYTES]>,
    interest: Vec<Interest>,
    abort: AbortSwitch,
    op_timeout: Duration,
    /// Where looking before sleeping was asked for.
    spin: Option<Spin>,
    progress: Option<Arc<AtomicU64>>,
}

impl Exchange {
    pub(crate) fn new(
        transport: Box<dyn Transport>,
        group: RankGroup,
        settings: MeshSettings,
        abort: &AbortSwitch,
    ) -> Self {
        let ranks = group.world_size();
        Self {
            transport,
            group,
            out: vec![Flow::default(); ranks],
            into: vec![Flow::default(); ranks],
            heard: vec![[0; HEADER_BYTES]; ranks],
            interest: vec![Interest::default(); ranks],
            abort: abort.clone(),
            op_timeout: settings.op_timeout,
            spin: Spin::new(settings.spin),
            progress: settings.progress,
        }
    }

    pub(crate) fn abort(&self) -> &AbortSwitch {
        &self.abort
    }

    /// Says that this rank is alive and getting on.
    pub(crate) fn bump(&self) {
        if let Some(progress) = &self.progress {
            progress.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs `plan` to its end.
    pub(crate) fn run(&mut self, plan: &mut impl Plan) -> Result<(), CollectiveError> {
        self.abort.check()?;
        for peer in self.peers() {
            self.out[peer].begin(plan.sends(peer));
            self.into[peer].begin(plan.receives(peer));
        }
        let mut idle = None;
        loop {
            let mut moved = false;
            let mut done = true;
            for peer in self.peers() {
                moved |= self.push(plan, peer)?;
                moved |= self.pull(plan, peer)?;
                done &= self.out[peer].done && self.into[peer].done;
            }
            if moved {
                self.stir(idle.take());
            }
            if done {
                self.bump();
                return Ok(());
            }
            if !moved {
                self.pause(idle.get_or_insert_with(|| Idle { since: Instant::now(), slept: false }))?;
            }
        }
    }

    /// Bytes moved, perhaps after a pause.
    fn stir(&mut self, idle: Option<Idle>) {
        self.bump();
        if let (Some(spin), Some(Idle { slept: false, .. })) = (&mut self.spin, idle) {
            spin.paid();
        }
    }

    /// The other ranks, the next one first, so that not all begin with the same.
    fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, ranks) = (self.group.rank(), self.group.world_size());
        (1..ranks).map(move |step| (rank + step) % ranks)
    }

    /// Sends to `peer` what fits; true when bytes moved.
    fn push(&mut self, plan: &impl Plan, peer: usize) -> Result<bool, CollectiveError> {
        let flow = &mut self.out[peer];
        if flow.done {
            return Ok(false);
        }
        let body = loop {
            match plan.outgoing(peer, flow.piece) {
                Piece::Bytes(bytes) if flow.offset == bytes.len() => (flow.piece, flow.offset) = (flow.piece + 1, 0),
                Piece::Bytes(bytes) => break Some(&bytes[flow.offset..]),
                Piece::Later => break None,
                Piece::Done => {
                    flow.done = flow.header_done == HEADER_BYTES;
                    break None;
                }
            }
        };
        let head = &flow.header[flow.header_done..];
        flow.held = head.is_empty() && body.is_none();
        if flow.held {
            return Ok(false);
        }
        let body = body.unwrap_or_default();
        let body = &body[..body.len().min(MOST_AT_ONCE)];
        let sent = self.transport.try_send(peer, head, body).map_err(|error| lost(peer, &error))?;
        let of_head = sent.min(head.len());
        flow.header_done += of_head;
        flow.offset += sent - of_head;
        Ok(sent > 0)
    }

    /// Takes from `peer` what has come; true when bytes moved.
    fn pull(&mut self, plan: &mut impl Plan, peer: usize) -> Result<bool, CollectiveError> {
        if self.into[peer].done {
            return Ok(false);
        }
        let got = self.read(plan, peer)?;
        self.settle(plan, peer);
        Ok(got > 0)
    }

    fn read(&mut self, plan: &mut impl Plan, peer: usize) -> Result<usize, CollectiveError> {
        let flow = &mut self.into[peer];
        let room = match plan.incoming(peer, flow.piece) {
            Piece::Bytes(bytes) => &mut bytes[flow.offset..],
            Piece::Later | Piece::Done => &mut [],
        };
        let most = room.len().min(MOST_AT_ONCE);
        let head = &mut self.heard[peer][flow.header_done..];
        let wanted = head.len();
        if wanted + most == 0 {
            return Ok(0);
        }
        let got = self.transport.try_recv(peer, head, &mut room[..most]).map_err(|error| lost(peer, &error))?;
        let of_head = got.min(wanted);
        flow.header_done += of_head;
        flow.offset += got - of_head;
        if wanted > 0 && flow.header_done == HEADER_BYTES {
            Header::check(peer, &flow.header, &self.heard[peer])?;
        }
        Ok(got)
    }

    /// Closes the pieces from `peer` that are whole, and notes whether the next must wait.
    fn settle(&mut self, plan: &mut impl Plan, peer: usize) {
        let flow = &mut self.into[peer];
        flow.held = false;
        while flow.header_done == HEADER_BYTES {
            let length = match plan.incoming(peer, flow.piece) {
                Piece::Bytes(bytes) => bytes.len(),
                Piece::Later => {
                    flow.held = true;
                    return;
                }
                Piece::Done => {
                    flow.done = true;
                    return;
                }
            };
            if flow.offset < length {
                return;
            }
            plan.received(peer, flow.piece);
            (flow.piece, flow.offset) = (flow.piece + 1, 0);
        }
    }

    /// Nothing moved: looks a little longer, or sleeps until something can.
    fn pause(&mut self, idle: &mut Idle) -> Result<(), CollectiveError> {
        self.abort.check()?;
        let elapsed = idle.since.elapsed();
        if elapsed >= self.op_timeout {
            return Err(self.overdue());
        }
        if let Some(spin) = self.spin.as_mut().filter(|_| !idle.slept) {
            if elapsed < spin.budget() {
                std::hint::spin_loop();
                return Ok(());
            }
            spin.gave_up();
        }
        idle.slept = true;
        for peer in 0..self.group.world_size() {
            let waits = |flow: &Flow| peer != self.group.rank() && !flow.done && !flow.held;
            self.interest[peer] = Interest { readable: waits(&self.into[peer]), writable: waits(&self.out[peer]) };
        }
        self.transport
            .wait(&self.interest, &self.abort, self.op_timeout - elapsed)
            .map_err(|error| CollectiveError::Unavailable { backend: self.transport.name(), reason: error.to_string() })
    }

    /// The deadline's error: the first peer that owes bytes, else the first that takes none.
    fn overdue(&self) -> CollectiveError {
        let owes = self.peers().find(|&peer| !self.into[peer].done && !self.into[peer].held);
        let takes_none = || self.peers().find(|&peer| !self.out[peer].done);
        let rank = owes.or_else(takes_none).unwrap_or_default();
        CollectiveError::Timeout { rank, millis: u64::try_from(self.op_timeout.as_millis()).unwrap_or(u64::MAX) }
    }
}

fn lost(rank: usize, error: &io::Error) -> CollectiveError {
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed by the peer".to_owned(),
        _ => error.to_string(),
    };
    CollectiveError::PeerLost { rank, reason }
}
