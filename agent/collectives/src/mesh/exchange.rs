//! The exchange of one operation's bytes over all links at once, in both directions. It never blocks on a single link.
//!
//! On each link an operation is a [`Header`] and then the pieces of its [`Plan`], in order. The exchange goes on while
//! bytes move on any link. When none move, it polls for a short while if the settings ask for that. Then it sleeps
//! until a link is ready, the group is aborted, or the timeout passes.

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

/// Most bytes given to the transport in one call. They are few enough that sending, receiving and summing alternate.
const MAX_BYTES_PER_CALL: usize = 512 << 10;

/// Bytes of one operation. On each link they are a sequence of pieces, which both ends number alike.
pub(crate) trait Plan {
    /// Returns the call that this rank announces to `peer`, if it sends to that peer.
    fn sends(&self, peer: usize) -> Option<Operation>;

    /// Returns the call that this rank expects from `peer`, if it receives from that peer.
    fn receives(&self, peer: usize) -> Option<Operation>;

    /// Returns piece `index` to `peer`.
    fn outgoing(&self, peer: usize, index: usize) -> PlanPiece<&[u8]>;

    /// Returns the buffer for piece `index` from `peer`.
    fn incoming(&mut self, peer: usize, index: usize) -> PlanPiece<&mut [u8]>;

    /// Records that piece `index` from `peer` is complete.
    fn received(&mut self, _peer: usize, _index: usize) {}
}

/// Next piece of a plan on one link.
pub(crate) enum PlanPiece<T> {
    /// Bytes to move now.
    Bytes(T),
    /// The piece depends on pieces that this rank has yet to receive.
    Later,
    /// The end of the plan.
    Done,
}

/// Progress of one direction of one link within an operation.
#[derive(Debug, Clone, Copy, Default)]
struct LinkProgress {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that have moved.
    header_done: usize,
    /// Index of the current piece in the plan.
    piece_index: usize,
    /// Bytes of the current piece that have moved.
    offset: usize,
    done: bool,
    /// Set while the next piece depends on pieces that this rank has yet to receive.
    blocked: bool,
    /// Number of operations so far. Both ends count alike.
    count: u32,
}

impl LinkProgress {
    fn begin(&mut self, operation: Option<Operation>) {
        *self = Self { count: self.count, done: operation.is_none(), ..Self::default() };
        if let Some(operation) = operation {
            self.count = self.count.wrapping_add(1);
            self.header = Header { operation, count: self.count }.encode();
        }
    }
}

/// Time in which no byte has moved.
struct Idle {
    since: Instant,
    /// Set once the rank has slept, so that it polls no more.
    slept: bool,
}

/// Links of one rank, and the progress of its current operation on each.
pub(crate) struct Exchange {
    pub(crate) transport: Box<dyn Transport>,
    group: RankGroup,
    sending: Vec<LinkProgress>,
    receiving: Vec<LinkProgress>,
    /// Headers as the peers sent them, complete or in part.
    received_headers: Vec<[u8; HEADER_BYTES]>,
    interest: Vec<Interest>,
    abort: AbortSwitch,
    op_timeout: Duration,
    /// Budget for polling before a sleep. `None` if the settings do not ask for polling.
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
            sending: vec![LinkProgress::default(); ranks],
            receiving: vec![LinkProgress::default(); ranks],
            received_headers: vec![[0; HEADER_BYTES]; ranks],
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

    /// Grows the counter that shows that this rank makes progress.
    fn count_progress(&self) {
        if let Some(progress) = &self.progress {
            progress.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs `plan` to its end.
    pub(crate) fn run_plan(&mut self, plan: &mut impl Plan) -> Result<(), CollectiveError> {
        self.abort.check()?;
        for peer in self.peers() {
            self.sending[peer].begin(plan.sends(peer));
            self.receiving[peer].begin(plan.receives(peer));
        }
        let mut idle = None;
        loop {
            let mut moved = false;
            let mut done = true;
            for peer in self.peers() {
                moved |= self.send_available(plan, peer)?;
                moved |= self.receive_available(plan, peer)?;
                done &= self.sending[peer].done && self.receiving[peer].done;
            }
            if moved {
                self.end_idle(idle.take());
            }
            if done {
                self.count_progress();
                return Ok(());
            }
            if !moved {
                self.wait_for_progress(idle.get_or_insert_with(|| Idle { since: Instant::now(), slept: false }))?;
            }
        }
    }

    /// Records that bytes moved. If the rank was idle before and only polled, the polling has paid.
    fn end_idle(&mut self, idle: Option<Idle>) {
        self.count_progress();
        if let (Some(spin), Some(Idle { slept: false, .. })) = (&mut self.spin, idle) {
            spin.record_hit();
        }
    }

    /// Returns the other ranks. The next rank comes first, so that not all ranks begin with the same peer.
    fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, ranks) = (self.group.rank(), self.group.world_size());
        (1..ranks).map(move |step| (rank + step) % ranks)
    }

    /// Sends as many bytes to `peer` as fit. Returns true if any moved.
    fn send_available(&mut self, plan: &impl Plan, peer: usize) -> Result<bool, CollectiveError> {
        let progress = &mut self.sending[peer];
        if progress.done {
            return Ok(false);
        }
        let body = loop {
            match plan.outgoing(peer, progress.piece_index) {
                PlanPiece::Bytes(bytes) if progress.offset == bytes.len() => {
                    (progress.piece_index, progress.offset) = (progress.piece_index + 1, 0)
                }
                PlanPiece::Bytes(bytes) => break Some(&bytes[progress.offset..]),
                PlanPiece::Later => break None,
                PlanPiece::Done => {
                    progress.done = progress.header_done == HEADER_BYTES;
                    break None;
                }
            }
        };
        let head = &progress.header[progress.header_done..];
        progress.blocked = head.is_empty() && body.is_none();
        if progress.blocked {
            return Ok(false);
        }
        let body = body.unwrap_or_default();
        let body = &body[..body.len().min(MAX_BYTES_PER_CALL)];
        let sent = self.transport.try_send(peer, head, body).map_err(|error| peer_lost(peer, &error))?;
        let header_bytes = sent.min(head.len());
        progress.header_done += header_bytes;
        progress.offset += sent - header_bytes;
        Ok(sent > 0)
    }

    /// Receives the bytes of `peer` that have arrived. Returns true if any moved.
    fn receive_available(&mut self, plan: &mut impl Plan, peer: usize) -> Result<bool, CollectiveError> {
        if self.receiving[peer].done {
            return Ok(false);
        }
        let got = self.receive_bytes(plan, peer)?;
        self.finish_pieces(plan, peer);
        Ok(got > 0)
    }

    fn receive_bytes(&mut self, plan: &mut impl Plan, peer: usize) -> Result<usize, CollectiveError> {
        let progress = &mut self.receiving[peer];
        let room = match plan.incoming(peer, progress.piece_index) {
            PlanPiece::Bytes(bytes) => &mut bytes[progress.offset..],
            PlanPiece::Later | PlanPiece::Done => &mut [],
        };
        let max_body = room.len().min(MAX_BYTES_PER_CALL);
        let head = &mut self.received_headers[peer][progress.header_done..];
        let wanted = head.len();
        if wanted + max_body == 0 {
            return Ok(0);
        }
        let got =
            self.transport.try_recv(peer, head, &mut room[..max_body]).map_err(|error| peer_lost(peer, &error))?;
        let header_bytes = got.min(wanted);
        progress.header_done += header_bytes;
        progress.offset += got - header_bytes;
        if wanted > 0 && progress.header_done == HEADER_BYTES {
            Header::check(peer, &progress.header, &self.received_headers[peer])?;
        }
        Ok(got)
    }

    /// Reports the complete pieces from `peer` to the plan. Records whether the next piece must wait, or that the plan
    /// is done.
    fn finish_pieces(&mut self, plan: &mut impl Plan, peer: usize) {
        let progress = &mut self.receiving[peer];
        progress.blocked = false;
        while progress.header_done == HEADER_BYTES {
            let length = match plan.incoming(peer, progress.piece_index) {
                PlanPiece::Bytes(bytes) => bytes.len(),
                PlanPiece::Later => {
                    progress.blocked = true;
                    return;
                }
                PlanPiece::Done => {
                    progress.done = true;
                    return;
                }
            };
            if progress.offset < length {
                return;
            }
            plan.received(peer, progress.piece_index);
            (progress.piece_index, progress.offset) = (progress.piece_index + 1, 0);
        }
    }

    /// Polls a little longer, or sleeps until a link is ready.
    fn wait_for_progress(&mut self, idle: &mut Idle) -> Result<(), CollectiveError> {
        self.abort.check()?;
        let elapsed = idle.since.elapsed();
        if elapsed >= self.op_timeout {
            return Err(self.timeout_error());
        }
        if let Some(spin) = self.spin.as_mut().filter(|_| !idle.slept) {
            if elapsed < spin.budget() {
                std::hint::spin_loop();
                return Ok(());
            }
            spin.record_miss();
        }
        idle.slept = true;
        for peer in 0..self.group.world_size() {
            let waits = |progress: &LinkProgress| peer != self.group.rank() && !progress.done && !progress.blocked;
            self.interest[peer] =
                Interest { readable: waits(&self.receiving[peer]), writable: waits(&self.sending[peer]) };
        }
        self.transport
            .wait(&self.interest, &self.abort, self.op_timeout - elapsed)
            .map_err(|error| CollectiveError::Unavailable { backend: self.transport.name(), reason: error.to_string() })
    }

    /// Returns the error for a passed timeout. It names the first peer that owes bytes, or else the first peer that
    /// takes none.
    fn timeout_error(&self) -> CollectiveError {
        let owing = self.peers().find(|&peer| !self.receiving[peer].done && !self.receiving[peer].blocked);
        let not_taking = || self.peers().find(|&peer| !self.sending[peer].done);
        let rank = owing.or_else(not_taking).unwrap_or_default();
        CollectiveError::Timeout { rank, millis: u64::try_from(self.op_timeout.as_millis()).unwrap_or(u64::MAX) }
    }
}

fn peer_lost(rank: usize, error: &io::Error) -> CollectiveError {
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed by the peer".to_owned(),
        _ => error.to_string(),
    };
    CollectiveError::PeerLost { rank, reason }
}
