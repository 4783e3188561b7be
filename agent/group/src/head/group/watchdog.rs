//! The watchdog of the group: it finds silent nodes and hung ranks, and it starts the next attempt to form.

use std::time::{Duration, Instant};

use super::{Action, FORM_TIMEOUT, GroupState, HeadGroup};
use crate::head::member::Member;
use crate::wire;

/// Time without a heartbeat after which a node is suspect: dead, cut off, or only short of CPU. Nodes send one every 100 ms.
/// A step waits for a suspect node.
const SUSPECT_AFTER: Duration = Duration::from_millis(800);
/// Time without a heartbeat after which the head ends a node's stream, and with it the epoch.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(3);
/// Time after which a step in flight counts as hung if no rank makes progress. A rank makes progress if it enters or
/// leaves a layer or a collective, moves a piece of a collective, or finishes a step.
const STALL_TIMEOUT: Duration = Duration::from_millis(900);
/// Time between two ticks above which the head's own process counts as paused. Ticks come every 50 ms.
pub(super) const PAUSE_THRESHOLD: Duration = Duration::from_millis(300);

impl HeadGroup {
    /// Finds suspect nodes, disconnects silent ones, ends a stalled epoch, and forms the next epoch when its time has come.
    /// The driver calls this about every 50 ms.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Action> {
        self.forgive_own_pause(now);
        self.find_suspects(now);
        let silent = self.members().find(|member| now.duration_since(member.last_heartbeat_at) > SILENCE_TIMEOUT);
        if let Some(node) = silent.map(|member| member.hello.node as usize) {
            return self.disconnect(node, "no heartbeat for 3 s: dead, stopped or cut off", now);
        }
        match self.state {
            GroupState::Gathering { not_before } if not_before.is_some_and(|at| now >= at) => {
                self.state = GroupState::Gathering { not_before: None };
                self.try_form(now)
            }
            GroupState::Forming { since } if now.duration_since(since) > FORM_TIMEOUT + SUSPECT_AFTER => {
                self.fail_epoch("the ranks did not all join in time", now)
            }
            GroupState::Formed { busy_since: Some(since) } if !self.has_suspects() => self.end_stalled_step(since, now),
            _ => Vec::new(),
        }
    }

    /// Finds the nodes whose heartbeat is late. A node that speaks again has time to go on with its step.
    fn find_suspects(&mut self, now: Instant) {
        for member in self.slots.iter_mut().filter_map(|slot| slot.member.as_mut()) {
            let is_suspect = now.duration_since(member.last_heartbeat_at) > SUSPECT_AFTER;
            if member.is_suspect && !is_suspect {
                member.last_progress_at = now;
            }
            member.is_suspect = is_suspect;
        }
    }

    /// Returns true if the head waits for the heartbeat of an attached node.
    pub(crate) fn has_suspects(&self) -> bool {
        self.suspects().next().is_some()
    }

    /// Returns the attached nodes whose heartbeat is late.
    pub(crate) fn suspects(&self) -> impl Iterator<Item = usize> {
        self.members().filter(|member| member.is_suspect).map(|member| member.hello.node as usize)
    }

    /// Extends every node's timers by the time for which the head's own process was paused or starved. The head could
    /// receive nothing in that time, so no node is to blame.
    fn forgive_own_pause(&mut self, now: Instant) {
        let Some(pause) = self.own_pause.look(now) else { return };
        for member in self.slots.iter_mut().filter_map(|slot| slot.member.as_mut()) {
            member.last_heartbeat_at = (member.last_heartbeat_at + pause).min(now);
            member.last_progress_at = (member.last_progress_at + pause).min(now);
        }
    }

    /// Ends the epoch once a step is in flight and no rank has made progress for [`STALL_TIMEOUT`]. The reason names the
    /// nodes that hold up the step, if they can be told from the others. They keep their weights: a node that is stuck for
    /// good ends by itself.
    ///
    /// Later pipeline stages wait for the first stage that has not finished the oldest step. Within that stage, the nodes
    /// with the least progress are hung. If several nodes of the stage have all made the same progress, a link between them
    /// is probably broken.
    fn end_stalled_step(&mut self, busy_since: Instant, now: Instant) -> Vec<Action> {
        let last_progress = self.members().map(|member| member.last_progress_at).max();
        let still_since = last_progress.map_or(busy_since, |at| at.max(busy_since));
        if now.duration_since(still_since) <= STALL_TIMEOUT {
            return Vec::new();
        }
        let hung = self.hung_nodes();
        if hung.is_empty() {
            return self.fail_epoch("a step is in flight and no rank moved for 0.9 s", now);
        }
        let hung: Vec<String> = hung.iter().map(usize::to_string).collect();
        let reason = format!("node {}: hung: a step is in flight and the other ranks wait for it", hung.join(", "));
        self.fail_epoch(&reason, now)
    }

    /// Returns the nodes for which the others wait, or none if no node is behind the others.
    fn hung_nodes(&self) -> Vec<usize> {
        let oldest = self.members().map(|member| (member.last_step, self.pipeline_stage(member))).min();
        let Some((step, stage)) = oldest else { return Vec::new() };
        let peers: Vec<&Member> = self.members().filter(|member| self.pipeline_stage(member) == stage).collect();
        let unfinished = || peers.iter().filter(|member| member.last_step == step);
        let least_progress = unfinished().map(|member| member.progress).min().unwrap_or(0);
        let hung: Vec<usize> = unfinished()
            .filter(|member| member.progress == least_progress)
            .map(|member| member.hello.node as usize)
            .collect();
        // A stage on a single node has no peer to compare with. Its node counts as hung if other stages wait for it.
        let no_rank_is_behind = hung.len() == peers.len() && (peers.len() > 1 || self.slots.len() == 1);
        if no_rank_is_behind { Vec::new() } else { hung }
    }

    /// Returns the first pipeline stage that has a rank on the member's node.
    fn pipeline_stage(&self, member: &Member) -> u32 {
        member.hello.node * self.config.local_world_size / wire::tensor_size(&self.config.assignment).max(1)
    }
}
