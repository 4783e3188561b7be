//! Results of steps that some local ranks have finished and others have not.

use std::collections::VecDeque;

use lockstep_proto::node::StepDone;

/// Steps that some local ranks have finished, oldest first: the number of these ranks, and their merged result. At most
/// the steps in flight are here.
#[derive(Default)]
pub(super) struct StepResults(VecDeque<(usize, StepDone)>);

impl StepResults {
    /// Adds one rank's result of a step. Returns the merged result once all `ranks` local ranks have finished the step.
    ///
    /// The merged result has the time of the slowest rank. It has sampled tokens and log-probabilities
    /// of prompts if one of the ranks reports them.
    pub(super) fn add(&mut self, done: StepDone, ranks: usize) -> Option<StepDone> {
        let known = self.0.iter().position(|(_, merged)| (merged.epoch, merged.step) == (done.epoch, done.step));
        let index = known.unwrap_or_else(|| {
            self.0.push_back((0, StepDone { epoch: done.epoch, step: done.step, ..Default::default() }));
            self.0.len() - 1
        });
        let (count, merged) = &mut self.0[index];
        *count += 1;
        merged.micros = merged.micros.max(done.micros);
        merged.fan_out_nanos = merged.fan_out_nanos.max(done.fan_out_nanos);
        if !done.sampled.is_empty() {
            merged.sampled = done.sampled;
        }
        if !done.prompts.is_empty() {
            merged.prompts = done.prompts;
        }
        if *count < ranks {
            return None;
        }
        self.0.remove(index).map(|(_, merged)| merged)
    }

    /// Drops all results, because the epoch is over.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_done_once_all_ranks_have_finished_it() {
        let mut steps = StepResults::default();
        let done = |step, micros| StepDone { epoch: 1, step, micros, ..Default::default() };
        assert_eq!(steps.add(done(1, 10), 2), None);
        assert_eq!(steps.add(done(2, 5), 2), None);
        assert_eq!(steps.add(done(1, 30), 2), Some(done(1, 30)));
        assert_eq!(steps.add(done(2, 4), 2), Some(done(2, 5)));
        assert_eq!(steps.add(done(3, 7), 1), Some(done(3, 7)));
    }
}
