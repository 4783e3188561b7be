//! What one step's share of the work is, where ranks in several pipeline stages compute several steps at once.
//!
//! In any window of as many steps as there are stages a sequence decodes once, and the steps have room for all: so taken
//! in the order of arrival, nobody is passed over for good.

use super::{Arrival, Scheduler};
use crate::sequence::Sequence;

/// Steps that the prefills at hand are spread over, for each stage: the more, the shorter the time in which the first
/// stages work and the last ones have nothing yet.
const STEPS_PER_STAGE: usize = 2;
/// A step's share of the prefills is not cut below this: smaller steps read the weights too often.
const LEAST_PREFILL: usize = 64;

/// Which tokens a decode may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// For none that is not computed by the time that the first stage wants it.
    None,
    /// For those of the oldest step in flight that nothing has followed yet.
    ForOldest,
}

impl Scheduler {
    /// The sequences of which `step` computes one token, in the order of arrival.
    pub(super) fn decodes(&self, step: u64, wait: Wait) -> Vec<Arrival> {
        let share = self.running.len().div_ceil(self.config.pipeline_stages);
        let decodes = self.running.iter().map(|arrival| (*arrival, &self.sequences[arrival]));
        let decodes = decodes.filter(|(_, sequence)| self.may_decode(sequence));
        let chosen: Vec<(Arrival, &Sequence)> = match wait {
            Wait::None => decodes.filter(|(_, sequence)| self.is_unhindered(sequence, step)).collect(),
            Wait::ForOldest => {
                let decodes: Vec<_> = decodes.collect();
                let oldest = decodes.iter().map(|(_, sequence)| sequence.sampled_in).min();
                decodes.into_iter().filter(|(_, sequence)| Some(sequence.sampled_in) == oldest).collect()
            }
        };
        chosen.into_iter().map(|(arrival, _)| arrival).take(share).collect()
    }

    fn may_decode(&self, sequence: &Sequence) -> bool {
        sequence.is_ready() && sequence.remaining() == 1 && sequence.pending < self.config.max_pending()
    }

    /// Whether the token that is computed for it, if any, is sampled when the first stage comes to `step`.
    fn is_unhindered(&self, sequence: &Sequence, step: u64) -> bool {
        sequence.pending == 0 || sequence.sampled_in + self.config.pipeline_stages as u64 <= step
    }

    /// Tokens of prefills that one step computes at most, apart from the budget.
    pub(super) fn prefill_share(&self) -> usize {
        let stages = self.config.pipeline_stages;
        if stages == 1 {
            return usize::MAX;
        }
        let steps = STEPS_PER_STAGE * stages;
        let queue = self.running.iter().chain(&self.waiting).map(|arrival| self.sequences[arrival].remaining());
        let mut total = 0;
        for remaining in queue.filter(|remaining| *remaining > 1) {
            total += remaining;
            if total >= steps * self.budget.get() {
                break;
            }
        }
        total.div_ceil(steps).max(LEAST_PREFILL)
    }
}
