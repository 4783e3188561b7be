//! One node as the head sees it: the node's slot in the group, and the process that fills the slot now.

use std::net::IpAddr;
use std::time::Instant;

use lockstep_proto::node as pb;
use lockstep_proto::v1::Phase;

/// Progress of an attached node towards the next epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberState {
    Loading,
    Loaded,
    Forming,
    Formed,
}

/// A node process that is attached to the head.
#[derive(Debug)]
pub(crate) struct Member {
    pub hello: pb::Hello,
    /// Number of the stream. It differs from the numbers of earlier and later streams of the same node.
    pub connection: u64,
    /// Address that the stream comes from.
    pub peer: IpAddr,
    /// Address of the head that the node dialed.
    pub local: IpAddr,
    pub state: MemberState,
    pub loaded: Option<pb::Loaded>,
    pub last_heartbeat_at: Instant,
    /// Set while the heartbeat is late.
    pub is_suspect: bool,
    /// Layers and collectives that the slowest local rank has entered and left in this epoch.
    pub progress: u64,
    /// Pieces of collectives that the local ranks have moved.
    pub moved: u64,
    /// Time at which `progress` or `moved` last grew, a step last finished, or the epoch began to form.
    pub last_progress_at: Instant,
    /// Last step that all ranks of the node have finished in this epoch.
    pub last_step: u64,
    pub step_micros: u64,
    /// Time at which the node asked to depart.
    pub departure_requested_at: Option<Instant>,
}

impl Member {
    pub(crate) fn new(hello: pb::Hello, connection: u64, peer: IpAddr, local: IpAddr, now: Instant) -> Self {
        Self {
            hello,
            connection,
            peer,
            local,
            state: MemberState::Loading,
            loaded: None,
            last_heartbeat_at: now,
            is_suspect: false,
            progress: 0,
            moved: 0,
            last_progress_at: now,
            last_step: 0,
            step_micros: 0,
            departure_requested_at: None,
        }
    }

    pub(crate) fn begin_epoch(&mut self, now: Instant) {
        (self.state, self.progress, self.last_progress_at, self.last_step) = (MemberState::Forming, 0, now, 0);
    }

    /// Notes a heartbeat. The progress in it counts only if it belongs to the current epoch.
    pub(crate) fn record_heartbeat(&mut self, heartbeat: &pb::Heartbeat, epoch: u64, now: Instant) {
        self.last_heartbeat_at = now;
        let has_grown = heartbeat.progress > self.progress || heartbeat.moved > self.moved;
        if heartbeat.epoch == epoch && has_grown {
            (self.progress, self.moved, self.last_progress_at) = (heartbeat.progress, heartbeat.moved, now);
        }
    }
}

/// Phase and load progress of one rank, for the status.
#[derive(Debug, Clone)]
pub(crate) struct RankProgress {
    pub phase: Phase,
    pub bytes_loaded: u64,
    pub bytes_total: u64,
    pub message: String,
}

/// The slot of a node in the group. It remains when the node's process ends.
#[derive(Debug)]
pub(crate) struct NodeSlot {
    pub member: Option<Member>,
    /// Progress by local rank.
    pub ranks: Vec<RankProgress>,
    /// Number of times that the group lost the process in this slot. A process that loses its stream and dials again
    /// counts too.
    pub restarts: u64,
    /// Hello of the last process in this slot. The status of a lost rank shows the host from it.
    pub last_hello: Option<pb::Hello>,
}

impl NodeSlot {
    pub(crate) fn new(ranks: usize) -> Self {
        let rank = RankProgress {
            phase: Phase::Pending,
            bytes_loaded: 0,
            bytes_total: 0,
            message: "has not joined yet".into(),
        };
        Self { member: None, ranks: vec![rank; ranks], restarts: 0, last_hello: None }
    }

    /// Puts a process into the slot.
    pub(crate) fn occupy(&mut self, member: Member) {
        self.last_hello = Some(member.hello.clone());
        self.member = Some(member);
        self.set_phase(Phase::Loading, "");
    }

    /// Counts the loss of the slot's process or of its stream, and shows the reason in the status.
    pub(crate) fn mark_lost(&mut self, reason: &str) {
        self.restarts += 1;
        self.set_phase(Phase::Lost, reason);
    }

    /// Empties the slot of a process that departed on request. The process does not count as lost.
    pub(crate) fn mark_departed(&mut self) {
        self.member = None;
        self.set_phase(Phase::Lost, "left: its process was told to stop");
    }

    /// Sets phase and message of every rank.
    pub(crate) fn set_phase(&mut self, phase: Phase, message: &str) {
        for rank in &mut self.ranks {
            rank.phase = phase;
        }
        self.set_message(message);
    }

    /// Sets the message of every rank.
    pub(crate) fn set_message(&mut self, message: &str) {
        for rank in &mut self.ranks {
            message.clone_into(&mut rank.message);
        }
    }

    pub(crate) fn record_load_progress(&mut self, local_rank: usize, progress: &pb::Progress) {
        let Some(rank) = self.ranks.get_mut(local_rank) else { return };
        (rank.bytes_loaded, rank.bytes_total) = (progress.bytes_loaded, progress.bytes_total);
        if let Ok(phase) = Phase::try_from(progress.phase) {
            rank.phase = phase;
        }
    }
}
