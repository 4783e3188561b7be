//! The ranks of an epoch together: they join once all are there, and each pipeline stage computes a step once all its ranks
//! are at it and the stage before has finished it.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_group::node::{RankEvent, RankEventKind};
use lockstep_schedule::plan::{StepOutput, StepPlan};

use super::ranks::{PROGRESS_OF_STEP, Work};
use super::{Event, Property, World};
use crate::group::script::{BLOCK_SIZE, MS, Micros};
use crate::group::strict_rank;

/// Epochs that are kept. Older ones are over.
const KEPT_EPOCHS: usize = 8;

/// An epoch that the ranks have begun to join.
pub(super) struct Epoch {
    /// Processes that joined, by node.
    members: Vec<u64>,
    pub is_formed: bool,
    /// Last step that each stage has finished.
    finished: Vec<u64>,
    /// Step that each stage computes now.
    running: Vec<u64>,
    /// Plans that a rank has begun and the last stage has not finished.
    plans: BTreeMap<u64, Arc<StepPlan>>,
    /// Stands for the KV caches of all ranks.
    rank: strict_rank::Rank,
}

impl World {
    pub(super) fn stage_of(&self, node: usize, local_rank: usize) -> usize {
        let shape = &self.script.shape;
        let world_size = shape.nodes * shape.local_world_size;
        (node * shape.local_world_size + local_rank) / (world_size / shape.stages)
    }

    /// Returns the ranks of a stage, each as node and local rank.
    fn ranks_of(&self, stage: usize) -> Vec<(usize, usize)> {
        let local = self.script.shape.local_world_size;
        let all = (0..self.nodes.len()).flat_map(|node| (0..local).map(move |rank| (node, rank)));
        all.filter(|(node, rank)| self.stage_of(*node, *rank) == stage).collect()
    }

    /// Lets the ranks join an epoch if all of them are at it and reach each other.
    pub(super) fn try_join(&mut self, epoch: u64) {
        let joins = |node: usize| {
            let state = &self.nodes[node];
            state.is_alive && state.ranks.iter().all(|rank| rank.work == Work::Joining(epoch))
        };
        if !(0..self.nodes.len()).all(joins) {
            return;
        }
        if let Some(later) = self.blocked_until(&(0..self.nodes.len()).collect::<Vec<_>>()) {
            return self.at(later + MS, Event::RetryJoin { epoch });
        }
        let members = self.nodes.iter().map(|node| node.life).collect();
        let stages = self.script.shape.stages;
        let rank = strict_rank::Rank::new(epoch, self.script.shape.num_blocks, BLOCK_SIZE);
        let (finished, running, plans) = (vec![0; stages], vec![0; stages], BTreeMap::new());
        let state = Epoch { members, is_formed: true, finished, running, plans, rank };
        self.counts.epochs += 1;
        self.log(|| format!("epoch {epoch} has formed"));
        // Numbers begin anew where the head and all nodes are new.
        let earlier = self.epochs.insert(epoch, state);
        let is_again =
            |earlier: Epoch| earlier.members.iter().enumerate().any(|(node, life)| self.is_current(node, *life));
        if earlier.is_some_and(is_again) {
            self.find(Property::EpochsAreApart, format!("epoch {epoch} formed twice"));
        }
        while self.epochs.len() > KEPT_EPOCHS {
            self.epochs.pop_first();
        }
        for node in 0..self.nodes.len() {
            let life = self.nodes[node].life;
            for local_rank in 0..self.nodes[node].ranks.len() {
                self.nodes[node].ranks[local_rank].work = Work::Idle;
                let kind = RankEventKind::Formed { epoch };
                self.give_rank_event(node, RankEvent { local_rank, kind });
                if self.is_current(node, life) {
                    self.poke_rank(node, local_rank);
                }
            }
            if self.is_current(node, life) && self.nodes[node].crashes > 0 {
                self.nodes[node].crashes -= 1;
                let time = self.jitter(30 * MS);
                self.after(time, Event::Die { node, life, why: "a crash loop" });
            }
        }
    }

    /// Returns the time until which some of the nodes are stopped or do not reach each other.
    fn blocked_until(&self, nodes: &[usize]) -> Option<Micros> {
        let stopped = nodes.iter().filter_map(|node| self.nodes[*node].sleeps_until(self.now));
        let apart = nodes.len() > 1;
        let cut = nodes.iter().filter(|_| apart).map(|node| self.wires[*node].ring_cut_until);
        stopped.chain(cut.filter(|until| *until > self.now)).max()
    }

    pub(super) fn time_out_join(&mut self, epoch: u64, node: usize, life: u64) {
        if !self.is_current(node, life) {
            return;
        }
        if let Some(wakes) = self.nodes[node].sleeps_until(self.now) {
            return self.at(wakes, Event::FormTimeout { epoch, node, life });
        }
        for local_rank in 0..self.nodes[node].ranks.len() {
            if self.is_current(node, life) && self.nodes[node].ranks[local_rank].work == Work::Joining(epoch) {
                self.fail_rank(node, local_rank, epoch, format!("join epoch {epoch}: a peer does not answer"));
            }
        }
    }

    /// Lets a stage compute its next step if all its ranks are at it and the stage before has finished it.
    pub(super) fn begin_stage(&mut self, epoch: u64, stage: usize) {
        let Some(state) = self.epochs.get(&epoch) else { return };
        let step = state.finished[stage] + 1;
        if state.running[stage] >= step || (stage > 0 && state.finished[stage - 1] < step) {
            return self.fail_at_dead_peer(epoch, stage);
        }
        if !self.are_at_step(epoch, stage, step) {
            return self.fail_at_dead_peer(epoch, stage);
        }
        if let Some(state) = self.epochs.get_mut(&epoch) {
            state.running[stage] = step;
        }
        let time = self.rng.range(300..=20_000);
        self.after(time, Event::StageDone { epoch, stage, step });
    }

    /// Returns true if all ranks of a stage compute this step.
    fn are_at_step(&mut self, epoch: u64, stage: usize, step: u64) -> bool {
        for (node, local_rank) in self.ranks_of(stage) {
            let state = &self.nodes[node];
            let Some(Work::Step(plan)) = state.ranks.get(local_rank).map(|rank| &rank.work) else { return false };
            if !state.is_alive || plan.epoch != epoch || plan.step != step {
                return false;
            }
            let plan = plan.clone();
            let Some(state) = self.epochs.get_mut(&epoch) else { return false };
            let known = state.plans.entry(step).or_insert_with(|| plan.clone());
            if *known != plan {
                self.find(Property::EpochsAreApart, format!("node {node} has another plan of {epoch}/{step}"));
                return false;
            }
        }
        true
    }

    /// Fails the ranks of a stage that wait for a process that is gone.
    fn fail_at_dead_peer(&mut self, epoch: u64, stage: usize) {
        let Some(state) = self.epochs.get(&epoch) else { return };
        let is_gone = |(node, life): (usize, &u64)| !self.is_current(node, *life);
        let Some(gone) = state.members.iter().enumerate().find(|member| is_gone(*member)).map(|(node, _)| node) else {
            return;
        };
        for (node, local_rank) in self.ranks_of(stage) {
            if self.waits_in(node, local_rank, epoch) && self.ring_is_whole(node, gone) {
                self.fail_rank(node, local_rank, epoch, "closed by the peer".into());
            }
        }
    }

    fn waits_in(&self, node: usize, local_rank: usize, epoch: u64) -> bool {
        let state = &self.nodes[node];
        let work = state.ranks.get(local_rank).map(|rank| (&rank.work, rank.is_stuck));
        state.is_alive && matches!(work, Some((Work::Step(plan), false)) if plan.epoch == epoch)
    }

    /// Lets the ranks that exchange data with a dead process fail.
    pub(super) fn tell_peers_of_death(&mut self, node: usize, life: u64) {
        let is_member = |epoch: &Epoch| epoch.members.get(node) == Some(&life);
        let Some(epoch) = self.epochs.iter().rev().find(|(_, epoch)| is_member(epoch)).map(|(epoch, _)| *epoch) else {
            return;
        };
        for peer in 0..self.nodes.len() {
            for local_rank in 0..self.nodes[peer].ranks.len() {
                let is_stopped = self.nodes[peer].sleeps_until(self.now).is_some();
                if self.waits_in(peer, local_rank, epoch) && self.ring_is_whole(peer, node) && !is_stopped {
                    self.fail_rank(peer, local_rank, epoch, "closed by the peer".into());
                }
            }
        }
    }

    /// A stage has finished a step, if its ranks are all well.
    pub(super) fn finish_stage(&mut self, epoch: u64, stage: usize, step: u64) {
        let ranks = self.ranks_of(stage);
        if !self.are_at_step(epoch, stage, step) {
            return self.fail_at_dead_peer(epoch, stage);
        }
        let nodes: Vec<usize> = ranks.iter().map(|(node, _)| *node).collect();
        if let Some(later) = self.blocked_until(&nodes) {
            // The others go on to the collective, and wait there.
            for (node, local_rank) in ranks {
                let is_stopped = self.nodes[node].sleeps_until(self.now).is_some();
                let rank = &mut self.nodes[node].ranks[local_rank];
                if !is_stopped {
                    rank.progress = rank.progress.max(PROGRESS_OF_STEP * (step - 1) + 4);
                }
            }
            return self.at(later + MS, Event::StageDone { epoch, stage, step });
        }
        if ranks.iter().any(|(node, local_rank)| self.nodes[*node].ranks[*local_rank].is_stuck) {
            return;
        }
        let Some(plan) = self.epochs.get(&epoch).and_then(|state| state.plans.get(&step)).cloned() else { return };
        if plan.entries.iter().any(|entry| self.is_poison(self.current_head, entry.seq)) {
            let node = ranks[0].0;
            self.disturb(node, self.now);
            return self.die(node, "a poisonous request", true);
        }
        self.complete_stage(epoch, stage, step, &plan, ranks);
    }

    fn complete_stage(&mut self, epoch: u64, stage: usize, step: u64, plan: &StepPlan, ranks: Vec<(usize, usize)>) {
        let is_last = stage + 1 == self.script.shape.stages;
        let Some(state) = self.epochs.get_mut(&epoch) else { return };
        state.finished[stage] = step;
        let output = match is_last {
            true => {
                state.plans.remove(&step);
                self.counts.steps += 1;
                state.rank.execute(plan)
            }
            false => StepOutput { epoch, step, sampled: Vec::new(), prompts: Vec::new() },
        };
        for (node, local_rank) in &ranks {
            let rank = &mut self.nodes[*node].ranks[*local_rank];
            (rank.work, rank.last_step) = (Work::Idle, step);
            rank.progress = PROGRESS_OF_STEP * step;
        }
        for (node, local_rank) in ranks {
            let life = self.nodes[node].life;
            let kind = RankEventKind::StepDone { output: output.clone(), micros: 1_000, fan_out_nanos: 0 };
            self.give_rank_event(node, RankEvent { local_rank, kind });
            if self.is_current(node, life) {
                self.poke_rank(node, local_rank);
            }
        }
        if !is_last {
            self.begin_stage(epoch, stage + 1);
        }
    }
}
