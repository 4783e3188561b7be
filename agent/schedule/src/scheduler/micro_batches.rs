//! The share of the work that one step takes if the group has pipeline stages. The stages compute several steps at
//! once.
//!
//! Among as many consecutive steps as there are stages, each sequence decodes at most once, and the steps together have
//! room for all sequences. There are two exceptions, in which a sequence decodes again earlier: the head already knows
//! all tokens of the sequence, or the step may stall ([`Stall::OnOldestStep`]). The scheduler chooses sequences in the
//! order of arrival, so it passes over none for good.

use super::{Scheduler, SeqKey};
use crate::sequence::Sequence;

/// Steps per stage over which the current prefills are spread. The more and smaller the steps are, the sooner the last
/// stages get their first input.
const STEPS_PER_STAGE: usize = 2;
/// Lower bound of a step's share of the prefills. Smaller steps read the weights too often.
const MIN_PREFILL_SHARE: usize = 64;

/// Permission for a step to wait in the pipeline for a token of a step in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stall {
    /// The ranks must have sampled every input token by the time that the first stage starts the step.
    Forbidden,
    /// The step may wait for the oldest step in flight whose sampled tokens no plan uses yet.
    OnOldestStep,
}

impl Scheduler {
    /// Returns the sequences that `step` decodes, in the order of arrival.
    pub(super) fn select_decodes(&self, step: u64, stall: Stall) -> Vec<SeqKey> {
        let share = self.running.len().div_ceil(self.config.pipeline_stages);
        let decodes = self.running.iter().map(|key| (*key, &self.sequences[key]));
        let decodes = decodes.filter(|(_, sequence)| self.can_decode(sequence));
        let selected: Vec<(SeqKey, &Sequence)> = match stall {
            Stall::Forbidden => decodes.filter(|(_, sequence)| self.has_input_for(sequence, step)).collect(),
            Stall::OnOldestStep => {
                let decodes: Vec<_> = decodes.collect();
                let oldest_step = decodes.iter().map(|(_, sequence)| sequence.last_sampling_step).min();
                decodes.into_iter().filter(|(_, sequence)| Some(sequence.last_sampling_step) == oldest_step).collect()
            }
        };
        selected.into_iter().map(|(key, _)| key).take(share).collect()
    }

    fn can_decode(&self, sequence: &Sequence) -> bool {
        sequence.is_schedulable()
            && sequence.num_unscheduled_tokens() == 1
            && sequence.num_in_flight < self.config.max_tokens_in_flight()
    }

    /// Returns true if the ranks have sampled the sequence's last token by the time that the first stage starts `step`.
    /// That holds too if no token of the sequence is in flight.
    fn has_input_for(&self, sequence: &Sequence, step: u64) -> bool {
        sequence.num_in_flight == 0 || sequence.last_sampling_step + self.config.pipeline_stages as u64 <= step
    }

    /// Returns the most prefill tokens that one step may compute, so that every stage has a step to compute. There is
    /// no such bound for one stage.
    pub(super) fn prefill_share(&self) -> usize {
        let stages = self.config.pipeline_stages;
        if stages == 1 {
            return usize::MAX;
        }
        let steps = STEPS_PER_STAGE * stages;
        let keys = self.running.iter().chain(&self.waiting);
        let num_unscheduled = keys.map(|key| self.sequences[key].num_unscheduled_tokens());
        let mut total = 0;
        for prefill_tokens in num_unscheduled.filter(|num_tokens| *num_tokens > 1) {
            total += prefill_tokens;
            if total >= steps * self.token_budget.num_tokens() {
                break;
            }
        }
        total.div_ceil(steps).max(MIN_PREFILL_SHARE)
    }
}
