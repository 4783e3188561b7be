//! The life of the group at the head: which nodes are attached, what they have loaded, and which epoch they form.
//!
//! Events and the current time go in, and [`Action`]s for the driver come out. This module writes no log.
//!
//! An epoch begins when every node of the group is attached and has loaded its weights. It ends as soon as a node is
//! lost, departs or reports a fault. The other nodes keep their weights between epochs. The head evicts a node only if the
//! node is broken, or replaced by a newer process. A node that is silent or hung keeps its process.

#[cfg(test)]
mod tests;
mod watchdog;

use std::time::{Duration, Instant};

use lockstep_proto::backoff::Backoff;
use lockstep_proto::node::{self as pb, from_head::Message};
use lockstep_proto::v1::Phase;

use super::addresses;
use super::member::{Member, MemberState, NodeSlot};
use crate::own_pause::OwnPause;
use crate::wire;

/// Longest time that an epoch may take to form. Forming dials every rank once, so a group that takes longer has a rank
/// that cannot be reached.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses before the group forms again after a failure in which no node was lost.
const FORM_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), MAX_FORM_PAUSE);
/// Longest pause before the group forms again.
const MAX_FORM_PAUSE: Duration = Duration::from_secs(5);

/// Size and settings of the group. They do not change while the head runs.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    pub nodes: usize,
    pub local_world_size: u32,
    /// `ring`, `nccl` or `solo`.
    pub backend: &'static str,
    /// Assignment of every node, except for its first rank.
    pub assignment: pb::Assignment,
}

/// A task that the group gives to the driver.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Send {
        node: usize,
        message: Message,
    },
    /// End the node's stream with this reason. The node's process then ends itself.
    Evict {
        node: usize,
        connection: u64,
        reason: String,
    },
    /// End the node's stream with this reason. The node dials again, with its weights.
    Disconnect {
        node: usize,
        connection: u64,
        reason: String,
    },
    /// A failure ended the epoch. Put the running sequences back into the queue.
    FailEpoch {
        reason: String,
    },
    /// The epoch ended between two steps because a node departs. Put the running sequences back into the queue, and
    /// count no failure.
    EndEpoch {
        reason: String,
    },
    /// Every rank has joined the epoch. Begin to send plans.
    StartEpoch {
        epoch: u64,
        num_blocks: u32,
    },
    /// The group cannot form although every node has loaded. Log the reason. The group tries again by itself.
    ReportFormError {
        reason: String,
    },
}

/// State of the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GroupState {
    /// The group waits for its nodes to attach and to load. It forms at `not_before` at the earliest.
    Gathering {
        not_before: Option<Instant>,
    },
    Forming {
        since: Instant,
    },
    /// The epoch runs. `busy_since` is set while a step is in flight.
    Formed {
        busy_since: Option<Instant>,
    },
}

/// The group as the head sees it: a slot for each node, and the epoch.
#[derive(Debug)]
pub(crate) struct HeadGroup {
    config: GroupConfig,
    /// Slots, by ordinal of the node.
    slots: Vec<NodeSlot>,
    epoch: u64,
    state: GroupState,
    /// Number of epochs that failed after all ranks had joined. It counts the failures, not the epochs that formed
    /// afterwards. It only grows, unlike the driver's `failed_epochs`.
    recoveries: u64,
    /// Pauses before the group forms again. They grow with each failure until an epoch serves.
    backoff: Backoff,
    /// Pauses of the head's own process, between two ticks.
    own_pause: OwnPause,
}

impl HeadGroup {
    pub(crate) fn new(config: GroupConfig) -> Self {
        let ranks = config.local_world_size as usize;
        let slots = (0..config.nodes).map(|_| NodeSlot::new(ranks)).collect();
        let state = GroupState::Gathering { not_before: None };
        let own_pause = OwnPause::new(watchdog::PAUSE_THRESHOLD);
        Self { config, slots, epoch: 0, state, recoveries: 0, backoff: FORM_BACKOFF, own_pause }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the number of epochs that failed after they had formed. An epoch that ends for a departure does not
    /// count.
    pub(crate) fn recoveries(&self) -> u64 {
        self.recoveries
    }

    pub(crate) fn slots(&self) -> &[NodeSlot] {
        &self.slots
    }

    pub(crate) fn config(&self) -> &GroupConfig {
        &self.config
    }

    pub(crate) fn is_formed(&self) -> bool {
        matches!(self.state, GroupState::Formed { .. })
    }

    /// Returns the node that reports the sampled tokens of a step.
    pub(crate) fn reporting_node(&self) -> usize {
        (wire::reporting_rank(&self.config.assignment) / self.config.local_world_size.max(1)) as usize
    }

    /// Returns the connection of a node, or `None` if the node is not attached.
    pub(crate) fn connection(&self, node: usize) -> Option<u64> {
        self.slots.get(node)?.member.as_ref().map(|member| member.connection)
    }

    /// Puts a process that passed [`super::admission`] into the empty slot of its node.
    pub(crate) fn attach(&mut self, member: Member) -> Action {
        let node = member.hello.node as usize;
        self.epoch = self.epoch.max(member.hello.last_epoch);
        let mut assignment = self.config.assignment.clone();
        assignment.first_rank = node as u32 * self.config.local_world_size;
        self.slots[node].occupy(member);
        Action::Send { node, message: Message::Assignment(assignment) }
    }

    /// Empties the slot of a node whose stream ended. Does nothing if another connection has the slot by now.
    pub(crate) fn detach(&mut self, node: usize, connection: u64, reason: &str, now: Instant) -> Vec<Action> {
        if self.connection(node) != Some(connection) {
            return Vec::new();
        }
        self.slots[node].member = None;
        self.slots[node].mark_lost(reason);
        self.fail_epoch(&format!("node {node}: {reason}"), now)
    }

    /// Ends the stream of a node, so that its process ends, and empties the node's slot.
    pub(crate) fn evict(&mut self, node: usize, reason: &str, now: Instant) -> Vec<Action> {
        let Some(connection) = self.connection(node) else { return Vec::new() };
        let mut actions = vec![Action::Evict { node, connection, reason: reason.to_owned() }];
        actions.extend(self.detach(node, connection, reason, now));
        actions
    }

    /// Ends the stream of a node that may come back, and empties the node's slot for whoever comes first: the same process
    /// with its weights, or its successor.
    pub(crate) fn disconnect(&mut self, node: usize, reason: &str, now: Instant) -> Vec<Action> {
        let Some(connection) = self.connection(node) else { return Vec::new() };
        let mut actions = vec![Action::Disconnect { node, connection, reason: reason.to_owned() }];
        actions.extend(self.detach(node, connection, reason, now));
        actions
    }

    /// Notes that a node asks to depart.
    pub(crate) fn request_departure(&mut self, node: usize, reason: &str, now: Instant) {
        if let Some(member) = &mut self.slots[node].member {
            member.departure_requested_at.get_or_insert(now);
            self.slots[node].set_message(&format!("leaves: {reason}"));
        }
    }

    /// Returns a node that asked to depart at least `pause` ago.
    pub(crate) fn departing_node(&self, now: Instant, pause: Duration) -> Option<usize> {
        let is_due = |member: &&Member| member.departure_requested_at.is_some_and(|at| now.duration_since(at) >= pause);
        self.members().find(is_due).map(|member| member.hello.node as usize)
    }

    /// Returns true if every rank has finished the last step that the head sent in this epoch, or if no epoch runs.
    pub(crate) fn has_finished_step(&self, last_sent: Option<u64>) -> bool {
        match last_sent {
            Some(step) if self.is_formed() => self.members().all(|member| member.last_step >= step),
            _ => true,
        }
    }

    /// Tells a departing node to end, and ends the epoch for all nodes. Nothing counts as a failure.
    pub(crate) fn release(&mut self, node: usize) -> Vec<Action> {
        if self.connection(node).is_none() {
            return Vec::new();
        }
        let reason = format!("node {node} leaves");
        let drain = pb::Drain { reason: "it asked to leave".into(), head_ends: false };
        let mut actions = vec![Action::Send { node, message: Message::Drain(drain) }];
        self.slots[node].mark_departed();
        let was_formed = self.is_formed();
        if !matches!(self.state, GroupState::Gathering { .. }) {
            actions.extend(self.abort_epoch(&reason, None));
        }
        if was_formed {
            actions.push(Action::EndEpoch { reason });
        }
        actions
    }

    /// Notes how far one rank of a node has loaded its weights.
    pub(crate) fn record_load_progress(&mut self, node: usize, progress: &pb::Progress) {
        let first_rank = node as u32 * self.config.local_world_size;
        if let Some(local_rank) = progress.rank.checked_sub(first_rank) {
            self.slots[node].record_load_progress(local_rank as usize, progress);
        }
    }

    /// Notes that all ranks of a node have loaded, and forms an epoch if this node was the last.
    pub(crate) fn node_loaded(&mut self, node: usize, loaded: pb::Loaded, now: Instant) -> Vec<Action> {
        if loaded.model != self.config.assignment.model.as_ref().map_or("", |model| &model.digest) {
            return self.evict(node, "it loaded another model than the group's", now);
        }
        self.slots[node].set_phase(Phase::Loading, "waits for the other ranks");
        if let Some(member) = &mut self.slots[node].member {
            member.state = MemberState::Loaded;
            member.loaded = Some(loaded);
        }
        self.try_form(now)
    }

    /// Notes that all ranks of a node have joined an epoch, and starts the epoch if this node was the last.
    pub(crate) fn node_formed(&mut self, node: usize, epoch: u64) -> Vec<Action> {
        if epoch != self.epoch || !matches!(self.state, GroupState::Forming { .. }) {
            return Vec::new();
        }
        if let Some(member) = &mut self.slots[node].member {
            member.state = MemberState::Formed;
        }
        self.slots[node].set_phase(Phase::Warmup, "waits for a first token");
        if self.members().any(|member| member.state != MemberState::Formed) {
            return Vec::new();
        }
        self.state = GroupState::Formed { busy_since: None };
        vec![Action::StartEpoch { epoch, num_blocks: self.num_blocks() }]
    }

    /// Notes that the ranks have generated the first token of this epoch.
    pub(crate) fn mark_serving(&mut self) {
        self.backoff.reset();
        for slot in &mut self.slots {
            slot.set_phase(Phase::Serving, "");
        }
    }

    /// Ends the epoch because a node cannot go on in it. Evicts the node if its fault is fatal.
    pub(crate) fn node_faulted(&mut self, node: usize, fault: &pb::Fault, now: Instant) -> Vec<Action> {
        if fault.fatal {
            return self.evict(node, &fault.message, now);
        }
        if fault.epoch != self.epoch {
            return Vec::new();
        }
        self.fail_epoch(&format!("rank {}: {}", fault.rank, fault.message), now)
    }

    pub(crate) fn record_heartbeat(&mut self, node: usize, heartbeat: &pb::Heartbeat, now: Instant) {
        let epoch = self.epoch;
        if let Some(member) = &mut self.slots[node].member {
            member.record_heartbeat(heartbeat, epoch, now);
        }
    }

    /// Starts the timer for hung steps when `in_flight` becomes true, and stops it when `in_flight` becomes false.
    pub(crate) fn set_in_flight(&mut self, in_flight: bool, now: Instant) {
        if let GroupState::Formed { busy_since } = &mut self.state {
            *busy_since = if in_flight { busy_since.or(Some(now)) } else { None };
        }
    }

    /// Notes that all ranks of a node have finished a step.
    pub(crate) fn record_step(&mut self, node: usize, step: u64, micros: u64, now: Instant) {
        if let Some(member) = &mut self.slots[node].member {
            (member.last_step, member.step_micros, member.last_progress_at) = (step, micros, now);
        }
    }

    /// Ends the epoch, or the attempt to form one, because of a failure.
    fn fail_epoch(&mut self, reason: &str, now: Instant) -> Vec<Action> {
        if matches!(self.state, GroupState::Gathering { .. }) {
            return Vec::new();
        }
        let was_formed = self.is_formed();
        let is_complete = self.members().count() == self.slots.len();
        let pause = self.backoff.next_pause();
        let mut actions = self.abort_epoch(reason, is_complete.then_some(now + pause));
        if was_formed {
            self.recoveries += 1;
            actions.push(Action::FailEpoch { reason: reason.to_owned() });
        }
        actions
    }

    /// Sends Abort to every attached node, and sets every node back to its state before the epoch.
    fn abort_epoch(&mut self, reason: &str, not_before: Option<Instant>) -> Vec<Action> {
        self.state = GroupState::Gathering { not_before };
        let epoch = self.epoch;
        let mut actions = Vec::new();
        for (node, slot) in self.slots.iter_mut().enumerate() {
            let Some(member) = &mut slot.member else { continue };
            if member.state != MemberState::Loading {
                member.state = MemberState::Loaded;
                slot.set_phase(Phase::Forming, "waits for the next epoch");
            }
            let abort = pb::Abort { epoch, reason: reason.to_owned() };
            actions.push(Action::Send { node, message: Message::Abort(abort) });
        }
        actions
    }

    /// Begins the next epoch if every node has loaded and the pause after a failure is over.
    fn try_form(&mut self, now: Instant) -> Vec<Action> {
        let num_loaded = self.members().filter(|member| member.state == MemberState::Loaded).count();
        if num_loaded < self.slots.len() || self.state != (GroupState::Gathering { not_before: None }) {
            return Vec::new();
        }
        let members: Vec<&Member> = self.members().collect();
        let addresses = match addresses::ring_addresses(&members) {
            Ok(addresses) => addresses,
            Err(reason) => {
                self.state = GroupState::Gathering { not_before: Some(now + MAX_FORM_PAUSE) };
                return vec![Action::ReportFormError { reason }];
            }
        };
        self.epoch += 1;
        self.state = GroupState::Forming { since: now };
        let form = pb::Form {
            epoch: self.epoch,
            addresses,
            backend: self.config.backend.to_owned(),
            num_blocks: self.num_blocks(),
            nccl_id: Vec::new(),
            timeout_ms: FORM_TIMEOUT.as_millis() as u32,
        };
        for slot in &mut self.slots {
            slot.set_phase(Phase::Forming, "joins the others");
            if let Some(member) = &mut slot.member {
                member.begin_epoch(now);
            }
        }
        (0..self.slots.len()).map(|node| Action::Send { node, message: Message::Form(form.clone()) }).collect()
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.slots.iter().filter_map(|slot| slot.member.as_ref())
    }

    /// Returns the number of KV cache blocks that every node has: the smallest number of any node.
    fn num_blocks(&self) -> u32 {
        self.members().filter_map(|member| member.loaded.as_ref()).map(|loaded| loaded.num_blocks).min().unwrap_or(0)
    }
}
