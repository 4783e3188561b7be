//! The group's life: who is attached, what they hold, which epoch they form. Pure: events and the time go in, actions
//! come out.
//!
//! An epoch begins when every node of the group is attached and loaded, and ends with the first loss. Between epochs
//! the survivors keep their weights; a node is evicted only where it is dead, hung or behind a newer incarnation.

use std::time::{Duration, Instant};

use lockstep_proto::backoff::Backoff;
use lockstep_proto::node::{self as pb, from_head::Message};
use lockstep_proto::v1::Phase;

use super::addresses;
use super::member::{Member, Place, Stage};
use crate::wire;

/// A node whose heartbeats (one every 100 ms) stay out for this long is dead or cut off.
pub const SILENCE: Duration = Duration::from_millis(800);
/// A step in flight during which no rank enters or leaves a layer or a collective for this long is hung.
pub const STALL: Duration = Duration::from_millis(900);
/// Forming dials every rank once; a group that has not formed by then has a rank that cannot be reached.
pub const FORM_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses before forming again after a failure in which no node was lost.
const RETRY_PAUSES: Backoff = Backoff::new(Duration::from_millis(100), LONGEST_RETRY_PAUSE);
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// What the group is made of.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    pub nodes: usize,
    pub local_world_size: u32,
    /// `ring`, `nccl` or `solo`.
    pub backend: &'static str,
    /// What every node is told, apart from its first rank.
    pub assignment: pb::Assignment,
}

/// What the driver does for the group.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Send {
        node: usize,
        message: Message,
    },
    /// End the node's stream with this reason; its process ends itself.
    Evict {
        node: usize,
        connection: u64,
        reason: String,
    },
    /// The epoch is over: running sequences go back to the queue.
    Lost {
        reason: String,
    },
    /// The epoch was ended between two steps, because a node leaves: as [`Action::Lost`], and nobody's fault.
    Ended {
        reason: String,
    },
    /// Every rank has joined: plans may flow.
    Formed {
        epoch: u64,
        num_blocks: u32,
    },
}

/// Where the group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waiting for nodes to attach and load; not before the instant, where there is one.
    Gathering {
        not_before: Option<Instant>,
    },
    Forming {
        since: Instant,
    },
    /// A step is in flight since the instant, where there is one.
    Formed {
        busy_since: Option<Instant>,
    },
}

/// Members by node ordinal, and the epoch.
#[derive(Debug)]
pub struct Group {
    config: GroupConfig,
    places: Vec<Place>,
    epoch: u64,
    state: State,
    recoveries: u64,
    retry_pauses: Backoff,
    last_tick: Option<Instant>,
}

impl Group {
    pub fn new(config: GroupConfig) -> Self {
        let ranks = config.local_world_size as usize;
        let places = (0..config.nodes).map(|_| Place::new(ranks)).collect();
        let state = State::Gathering { not_before: None };
        Self { config, places, epoch: 0, state, recoveries: 0, retry_pauses: RETRY_PAUSES, last_tick: None }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Times that the group lost an epoch that had formed.
    pub fn recoveries(&self) -> u64 {
        self.recoveries
    }

    pub fn places(&self) -> &[Place] {
        &self.places
    }

    pub fn config(&self) -> &GroupConfig {
        &self.config
    }

    pub fn is_formed(&self) -> bool {
        matches!(self.state, State::Formed { .. })
    }

    /// The node whose report of a step says what was sampled.
    pub fn reporting_node(&self) -> usize {
        (wire::reporting_rank(&self.config.assignment) / self.config.local_world_size.max(1)) as usize
    }

    /// The first pipeline stage that has a rank on a node.
    fn stage_of(&self, member: &Member) -> u32 {
        member.hello.node * self.config.local_world_size / wire::tensor_size(&self.config.assignment).max(1)
    }

    /// The connection of a node, if it is attached.
    pub fn connection(&self, node: usize) -> Option<u64> {
        self.places.get(node)?.member.as_ref().map(|member| member.connection)
    }

    /// A node's stream said Hello and was accepted by [`super::admission`]. It takes the place of an earlier one.
    pub fn attach(&mut self, member: Member, now: Instant) -> Vec<Action> {
        let node = member.hello.node as usize;
        let mut actions = Vec::new();
        if let Some(older) = self.places[node].member.take() {
            let reason = format!("a newer process or connection (pid {}) took the place", member.hello.pid);
            actions.push(Action::Evict { node, connection: older.connection, reason: reason.clone() });
            self.places[node].lost(reason.clone());
            actions.extend(self.lose(&format!("node {node}: {reason}"), now));
        }
        self.epoch = self.epoch.max(member.hello.last_epoch);
        let mut assignment = self.config.assignment.clone();
        assignment.first_rank = node as u32 * self.config.local_world_size;
        self.places[node].occupy(member);
        actions.push(Action::Send { node, message: Message::Assignment(assignment) });
        actions
    }

    /// A node's stream ended, for whatever reason; `connection` tells it from the one that took its place.
    pub fn detach(&mut self, node: usize, connection: u64, reason: &str, now: Instant) -> Vec<Action> {
        if self.connection(node) != Some(connection) {
            return Vec::new();
        }
        self.places[node].member = None;
        self.places[node].lost(reason.to_owned());
        self.lose(&format!("node {node}: {reason}"), now)
    }

    /// Ends a node's stream because it must not go on.
    pub fn evict(&mut self, node: usize, reason: &str, now: Instant) -> Vec<Action> {
        let Some(connection) = self.connection(node) else { return Vec::new() };
        let mut actions = vec![Action::Evict { node, connection, reason: reason.to_owned() }];
        actions.extend(self.detach(node, connection, reason, now));
        actions
    }

    /// A node asks to go.
    pub fn leaving(&mut self, node: usize, reason: &str, now: Instant) {
        if let Some(member) = &mut self.places[node].member {
            member.leaves = member.leaves.or(Some(now));
            self.places[node].message(&format!("leaves: {reason}"));
        }
    }

    /// A node that asked to go at least so long ago.
    pub fn leaver(&self, now: Instant, pause: Duration) -> Option<usize> {
        let due = |member: &&Member| member.leaves.is_some_and(|at| now.duration_since(at) >= pause);
        self.members().find(due).map(|member| member.hello.node as usize)
    }

    /// Whether every rank has done the last step that was sent in this epoch, or there is no epoch.
    pub fn is_at_boundary(&self, last_sent: Option<u64>) -> bool {
        match last_sent {
            Some(step) if self.is_formed() => self.members().all(|member| member.last_step >= step),
            _ => true,
        }
    }

    /// Lets a node go: the epoch ends for all, and the node is told to end.
    pub fn let_go(&mut self, node: usize) -> Vec<Action> {
        if self.connection(node).is_none() {
            return Vec::new();
        }
        let reason = format!("node {node} leaves");
        let drain = pb::Drain { reason: "it asked to leave".into() };
        let mut actions = vec![Action::Send { node, message: Message::Drain(drain) }];
        self.places[node].left();
        let formed = self.is_formed();
        if !matches!(self.state, State::Gathering { .. }) {
            actions.extend(self.interrupt(&reason, None));
        }
        if formed {
            actions.push(Action::Ended { reason });
        }
        actions
    }

    pub fn progress(&mut self, node: usize, progress: &pb::Progress) {
        let first = node as u32 * self.config.local_world_size;
        if let Some(rank) = progress.rank.checked_sub(first) {
            self.places[node].load_progress(rank as usize, progress);
        }
    }

    pub fn loaded(&mut self, node: usize, loaded: pb::Loaded, now: Instant) -> Vec<Action> {
        if loaded.model != self.config.assignment.model.as_ref().map_or("", |model| &model.digest) {
            return self.evict(node, "it loaded another model than the group's", now);
        }
        self.places[node].phase(Phase::Loading, "waits for the other ranks");
        if let Some(member) = &mut self.places[node].member {
            member.stage = Stage::Loaded;
            member.loaded = Some(loaded);
        }
        self.try_form(now)
    }

    pub fn formed(&mut self, node: usize, epoch: u64) -> Vec<Action> {
        if epoch != self.epoch || !matches!(self.state, State::Forming { .. }) {
            return Vec::new();
        }
        if let Some(member) = &mut self.places[node].member {
            member.stage = Stage::Formed;
        }
        self.places[node].phase(Phase::Warmup, "waits for a first token");
        if self.members().any(|member| member.stage != Stage::Formed) {
            return Vec::new();
        }
        self.state = State::Formed { busy_since: None };
        vec![Action::Formed { epoch, num_blocks: self.num_blocks() }]
    }

    /// A token came through every rank of this epoch.
    pub fn proved(&mut self) {
        self.retry_pauses.reset();
        for place in &mut self.places {
            place.phase(Phase::Serving, "");
        }
    }

    /// A node cannot go on in this epoch.
    pub fn fault(&mut self, node: usize, fault: &pb::Fault, now: Instant) -> Vec<Action> {
        if fault.fatal {
            return self.evict(node, &fault.message, now);
        }
        if fault.epoch != self.epoch {
            return Vec::new();
        }
        self.lose(&format!("rank {}: {}", fault.rank, fault.message), now)
    }

    pub fn heartbeat(&mut self, node: usize, heartbeat: &pb::Heartbeat, now: Instant) {
        let epoch = self.epoch;
        if let Some(member) = &mut self.places[node].member {
            member.heard(heartbeat, epoch, now);
        }
    }

    /// `in_flight` plans have been sent and not answered.
    pub fn busy(&mut self, in_flight: bool, now: Instant) {
        if let State::Formed { busy_since } = &mut self.state {
            *busy_since = if in_flight { busy_since.or(Some(now)) } else { None };
        }
    }

    /// A step was finished by a node.
    pub fn step_done(&mut self, node: usize, step: u64, micros: u64, now: Instant) {
        if let Some(member) = &mut self.places[node].member {
            (member.last_step, member.step_micros, member.moved_at) = (step, micros, now);
        }
    }

    /// Looks for silent and hung nodes and for a time to form again; called every 50 ms or so.
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        self.excuse_own_sleep(now);
        let silent = self.members().find(|member| now.duration_since(member.heard_at) > SILENCE);
        if let Some(node) = silent.map(|member| member.hello.node as usize) {
            return self.evict(node, "no heartbeat for 0.8 s: dead, stopped or cut off", now);
        }
        match self.state {
            State::Gathering { not_before } if not_before.is_some_and(|at| now >= at) => {
                self.state = State::Gathering { not_before: None };
                self.try_form(now)
            }
            State::Forming { since } if now.duration_since(since) > FORM_TIMEOUT + SILENCE => {
                self.lose("the ranks did not all join in time", now)
            }
            State::Formed { busy_since: Some(since) } => self.find_stall(since, now),
            _ => Vec::new(),
        }
    }

    /// Where this process itself was stopped or starved, nobody is blamed for what could not be heard meanwhile.
    fn excuse_own_sleep(&mut self, now: Instant) {
        let gap = self.last_tick.map_or(Duration::ZERO, |last| now.duration_since(last));
        self.last_tick = Some(now);
        if gap > Duration::from_millis(300) {
            for member in self.places.iter_mut().filter_map(|place| place.member.as_mut()) {
                member.heard_at = (member.heard_at + gap).min(now);
                member.moved_at = (member.moved_at + gap).min(now);
            }
        }
    }

    /// Where a step is in flight and nothing moves. Later stages wait for the first that has not done the oldest step; of
    /// the ranks of that one, those that are behind are hung; where all are level, a link is.
    fn find_stall(&mut self, busy_since: Instant, now: Instant) -> Vec<Action> {
        let moved = self.members().map(|member| member.moved_at).max().map_or(busy_since, |at| at.max(busy_since));
        if now.duration_since(moved) <= STALL {
            return Vec::new();
        }
        let awaited = self.members().map(|member| (member.last_step, self.stage_of(member))).min();
        let Some((step, stage)) = awaited else { return Vec::new() };
        let peers: Vec<&Member> = self.members().filter(|member| self.stage_of(member) == stage).collect();
        let late = || peers.iter().filter(|member| member.last_step == step);
        let behind = late().map(|member| member.progress).min().unwrap_or(0);
        let hung: Vec<usize> =
            late().filter(|member| member.progress == behind).map(|member| member.hello.node as usize).collect();
        // A stage that is one node has no peer to be compared with, and is taken to be hung where others wait for it.
        let level = hung.len() == peers.len() && (peers.len() > 1 || self.places.len() == 1);
        if level {
            return self.lose("a step is in flight and no rank moved for 0.9 s", now);
        }
        let reason = "hung: a step is in flight and the other ranks wait for it";
        hung.into_iter().flat_map(|node| self.evict(node, reason, now)).collect()
    }

    /// Ends the epoch, or the attempt at one.
    fn lose(&mut self, reason: &str, now: Instant) -> Vec<Action> {
        let was = self.state;
        if matches!(was, State::Gathering { .. }) {
            return Vec::new();
        }
        let complete = self.members().count() == self.places.len();
        let pause = self.retry_pauses.next_pause();
        let mut actions = self.interrupt(reason, complete.then_some(now + pause));
        if matches!(was, State::Formed { .. }) {
            self.recoveries += 1;
            actions.push(Action::Lost { reason: reason.to_owned() });
        }
        actions
    }

    /// Sets everyone back to before the epoch.
    fn interrupt(&mut self, reason: &str, not_before: Option<Instant>) -> Vec<Action> {
        self.state = State::Gathering { not_before };
        let epoch = self.epoch;
        let mut actions = Vec::new();
        for (node, place) in self.places.iter_mut().enumerate() {
            let Some(member) = &mut place.member else { continue };
            if member.stage != Stage::Loading {
                member.stage = Stage::Loaded;
                place.phase(Phase::Forming, "waits for a lost rank");
            }
            let abort = pb::Abort { epoch, reason: reason.to_owned() };
            actions.push(Action::Send { node, message: Message::Abort(abort) });
        }
        actions
    }

    fn try_form(&mut self, now: Instant) -> Vec<Action> {
        let all_loaded = self.members().filter(|member| member.stage == Stage::Loaded).count() == self.places.len();
        if !all_loaded || self.state != (State::Gathering { not_before: None }) {
            return Vec::new();
        }
        let members: Vec<&Member> = self.members().collect();
        let addresses = match addresses::of(&members) {
            Ok(addresses) => addresses,
            Err(reason) => {
                tracing::error!(%reason, "cannot form the group");
                self.state = State::Gathering { not_before: Some(now + LONGEST_RETRY_PAUSE) };
                return Vec::new();
            }
        };
        self.epoch += 1;
        self.state = State::Forming { since: now };
        let form = pb::Form {
            epoch: self.epoch,
            addresses,
            backend: self.config.backend.to_owned(),
            num_blocks: self.num_blocks(),
            nccl_id: Vec::new(),
            timeout_ms: FORM_TIMEOUT.as_millis() as u32,
        };
        for place in &mut self.places {
            place.phase(Phase::Forming, "joins the others");
            if let Some(member) = &mut place.member {
                member.begin_epoch(now);
            }
        }
        (0..self.places.len()).map(|node| Action::Send { node, message: Message::Form(form.clone()) }).collect()
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.places.iter().filter_map(|place| place.member.as_ref())
    }

    /// The least over the ranks, so that every block exists on all of them.
    fn num_blocks(&self) -> u32 {
        self.members().filter_map(|member| member.loaded.as_ref()).map(|loaded| loaded.num_blocks).min().unwrap_or(0)
    }

    /// Facts of the model, once a node has loaded it.
    pub fn model_facts(&self) -> Option<&pb::Loaded> {
        self.members().find_map(|member| member.loaded.as_ref())
    }
}
