//! One node as the head sees it: the place it has in the group, and the process that fills it now.

use std::net::IpAddr;
use std::time::Instant;

use lockstep_proto::node as pb;
use lockstep_proto::v1::Phase;

/// How far a node has come; the group moves it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Loading,
    Loaded,
    Forming,
    Formed,
}

/// A process that is attached.
#[derive(Debug)]
pub struct Member {
    pub hello: pb::Hello,
    /// Tells this stream from earlier and later ones of the same node.
    pub connection: u64,
    /// Where the stream comes from, and the head's own address on it.
    pub peer: IpAddr,
    pub local: IpAddr,
    pub stage: Stage,
    pub loaded: Option<pb::Loaded>,
    pub heard_at: Instant,
    /// Layers and collectives entered and left in this epoch, pieces of collectives, and when either last grew.
    pub progress: u64,
    pub moved: u64,
    pub moved_at: Instant,
    pub last_step: u64,
    pub step_micros: u64,
    /// It asked to go, then.
    pub leaves: Option<Instant>,
}

impl Member {
    pub fn new(hello: pb::Hello, connection: u64, peer: IpAddr, local: IpAddr, now: Instant) -> Self {
        Self {
            hello,
            connection,
            peer,
            local,
            stage: Stage::Loading,
            loaded: None,
            heard_at: now,
            progress: 0,
            moved: 0,
            moved_at: now,
            last_step: 0,
            step_micros: 0,
            leaves: None,
        }
    }

    pub fn begin_epoch(&mut self, now: Instant) {
        (self.stage, self.progress, self.moved_at, self.last_step) = (Stage::Forming, 0, now, 0);
    }

    pub fn heard(&mut self, heartbeat: &pb::Heartbeat, epoch: u64, now: Instant) {
        self.heard_at = now;
        let grown = heartbeat.progress > self.progress || heartbeat.moved > self.moved;
        if heartbeat.epoch == epoch && grown {
            (self.progress, self.moved, self.moved_at) = (heartbeat.progress, heartbeat.moved, now);
        }
    }
}

/// A rank's line in the status.
#[derive(Debug, Clone)]
pub struct RankLine {
    pub phase: Phase,
    pub bytes_loaded: u64,
    pub bytes_total: u64,
    pub message: String,
}

/// A node's place: it stays when the process goes.
#[derive(Debug)]
pub struct Place {
    pub member: Option<Member>,
    pub ranks: Vec<RankLine>,
    /// Processes that were lost here.
    pub restarts: u64,
    /// Where the last process of this place ran, for the status of a lost one.
    pub last_hello: Option<pb::Hello>,
}

impl Place {
    pub fn new(ranks: usize) -> Self {
        let line =
            RankLine { phase: Phase::Pending, bytes_loaded: 0, bytes_total: 0, message: "has not joined yet".into() };
        Self { member: None, ranks: vec![line; ranks], restarts: 0, last_hello: None }
    }

    pub fn occupy(&mut self, member: Member) {
        self.last_hello = Some(member.hello.clone());
        self.member = Some(member);
        self.phase(Phase::Loading, "");
    }

    pub fn lost(&mut self, reason: String) {
        self.restarts += 1;
        self.phase(Phase::Lost, &reason);
    }

    /// The process went of its own will; nothing was lost.
    pub fn left(&mut self) {
        self.member = None;
        self.phase(Phase::Lost, "left: its process was told to stop");
    }

    pub fn phase(&mut self, phase: Phase, message: &str) {
        for rank in &mut self.ranks {
            rank.phase = phase;
            message.clone_into(&mut rank.message);
        }
    }

    pub fn message(&mut self, message: &str) {
        for rank in &mut self.ranks {
            message.clone_into(&mut rank.message);
        }
    }

    pub fn load_progress(&mut self, local_rank: usize, progress: &pb::Progress) {
        let Some(rank) = self.ranks.get_mut(local_rank) else { return };
        (rank.bytes_loaded, rank.bytes_total) = (progress.bytes_loaded, progress.bytes_total);
        if let Ok(phase) = Phase::try_from(progress.phase) {
            rank.phase = phase;
        }
    }
}
