//! A node's ranks: each carries out its commands one after the other, as the rank's thread does.

use std::collections::VecDeque;
use std::sync::Arc;

use lockstep_group::node::{RankEvent, RankEventKind};
use lockstep_proto::node as pb;
use lockstep_schedule::plan::StepPlan;

use super::{Event, World};
use crate::group::script::{Ailment, Micros};

/// Layers and collectives that a rank enters and leaves in a step.
pub(super) const PROGRESS_OF_STEP: u64 = 8;

/// Command from the node to a rank.
#[derive(Debug)]
pub(super) enum Command {
    Load,
    Form(pb::Form),
    Step(Arc<StepPlan>),
}

/// What a rank does now.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) enum Work {
    #[default]
    Idle,
    Loading,
    Joining(u64),
    Step(Arc<StepPlan>),
}

#[derive(Debug, Default)]
pub(super) struct Rank {
    commands: VecDeque<Command>,
    pub work: Work,
    pub has_loaded: bool,
    /// All epochs up to this one are aborted.
    pub aborted: u64,
    /// Epoch that the rank joined last.
    pub epoch: u64,
    pub progress: u64,
    pub last_step: u64,
    /// Set while the rank is in a step that never ends.
    pub is_stuck: bool,
}

impl Rank {
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.work, Work::Step(_))
    }
}

impl World {
    pub(super) fn command_ranks(&mut self, node: usize, command: impl Fn() -> Command) {
        for local_rank in 0..self.nodes[node].ranks.len() {
            self.nodes[node].ranks[local_rank].commands.push_back(command());
            self.poke_rank(node, local_rank);
        }
    }

    /// Lets an idle rank begin its next command.
    pub(super) fn poke_rank(&mut self, node: usize, local_rank: usize) {
        while self.nodes[node].is_alive {
            let hangs = self.nodes[node].hangs;
            let rank = &mut self.nodes[node].ranks[local_rank];
            if rank.work != Work::Idle {
                return;
            }
            match rank.commands.pop_front() {
                None => return,
                Some(Command::Load) => self.begin_loading(node, local_rank),
                Some(Command::Form(form)) if form.epoch <= rank.aborted => {}
                Some(Command::Form(form)) => self.begin_joining(node, local_rank, &form),
                Some(Command::Step(plan)) if plan.epoch <= rank.aborted => {}
                Some(Command::Step(plan)) => {
                    rank.work = Work::Step(plan.clone());
                    rank.progress += 1;
                    rank.is_stuck = hangs;
                    let (epoch, stage) = (plan.epoch, self.stage_of(node, local_rank));
                    self.begin_stage(epoch, stage);
                }
            }
        }
    }

    fn begin_loading(&mut self, node: usize, local_rank: usize) {
        self.nodes[node].ranks[local_rank].work = Work::Loading;
        let load = self.script.shape.load;
        let time = self.about(load);
        let life = self.nodes[node].life;
        self.after(time, Event::Loaded { node, life, local_rank });
    }

    pub(super) fn finish_loading(&mut self, node: usize, life: u64, local_rank: usize) {
        if !self.is_current(node, life) {
            return;
        }
        if let Some(wakes) = self.nodes[node].sleeps_until(self.now) {
            return self.at(wakes, Event::Loaded { node, life, local_rank });
        }
        let rank = &mut self.nodes[node].ranks[local_rank];
        (rank.work, rank.has_loaded) = (Work::Idle, true);
        let num_blocks = self.script.shape.num_blocks;
        let is_refused = self.nodes[node].ails(Ailment::NoMemory, self.now);
        self.nodes[node].has_failed |= is_refused;
        let kind = match is_refused {
            true => RankEventKind::LoadFailed { reason: "memory is refused".into(), model_is_unusable: false },
            false => RankEventKind::Loaded { loaded: pb::Loaded { num_blocks, ..Default::default() } },
        };
        self.give_rank_event(node, RankEvent { local_rank, kind });
        if self.is_current(node, life) {
            self.poke_rank(node, local_rank);
        }
    }

    fn begin_joining(&mut self, node: usize, local_rank: usize, form: &pb::Form) {
        let rank = &mut self.nodes[node].ranks[local_rank];
        let epoch = form.epoch;
        if !rank.has_loaded {
            return self.fail_rank(node, local_rank, epoch, "the rank received Form before it loaded".into());
        }
        (rank.progress, rank.epoch, rank.work) = (0, epoch, Work::Joining(epoch));
        let life = self.nodes[node].life;
        let timeout = Micros::from(form.timeout_ms) * 1000;
        self.after(timeout, Event::FormTimeout { epoch, node, life });
        self.try_join(epoch);
    }

    /// Reports that a rank cannot go on in an epoch.
    pub(super) fn fail_rank(&mut self, node: usize, local_rank: usize, epoch: u64, reason: String) {
        let rank = &mut self.nodes[node].ranks[local_rank];
        rank.aborted = rank.aborted.max(epoch);
        rank.work = Work::Idle;
        let life = self.nodes[node].life;
        let kind = RankEventKind::Fault { epoch, reason, seq: None };
        self.give_rank_event(node, RankEvent { local_rank, kind });
        if self.is_current(node, life) {
            self.poke_rank(node, local_rank);
        }
    }

    /// Aborts all epochs up to `epoch` on the node's ranks, and wakes those that are in one.
    pub(super) fn abort_ranks(&mut self, node: usize, epoch: u64) {
        for local_rank in 0..self.nodes[node].ranks.len() {
            let rank = &mut self.nodes[node].ranks[local_rank];
            rank.aborted = rank.aborted.max(epoch);
            let wakes = match &rank.work {
                Work::Joining(joining) => *joining <= epoch,
                Work::Step(plan) => plan.epoch <= epoch && !rank.is_stuck,
                Work::Idle | Work::Loading => false,
            };
            if wakes {
                rank.work = Work::Idle;
                self.poke_rank(node, local_rank);
            }
        }
    }
}
