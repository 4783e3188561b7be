//! Steps that some of the node's ranks have finished and others have not.

use std::collections::VecDeque;

use lockstep_proto::node::StepDone;

/// In the order of the steps; never more than are in flight.
#[derive(Default)]
pub struct Steps(VecDeque<(usize, StepDone)>);

impl Steps {
    /// One more of `ranks` local ranks has done a step. A step counts as done when all have, the slowest gives its
    /// time, and the rank that reports, if it is one of them, what was sampled.
    pub fn add(&mut self, done: StepDone, ranks: usize) -> Option<StepDone> {
        let known = self.0.iter().position(|(_, one)| (one.epoch, one.step) == (done.epoch, done.step));
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
        if *count < ranks {
            return None;
        }
        self.0.remove(index).map(|(_, merged)| merged)
    }

    /// The epoch is over.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_done_when_all_ranks_have_done_it() {
        let mut steps = Steps::default();
        let done = |step, micros| StepDone { epoch: 1, step, micros, ..Default::default() };
        assert_eq!(steps.add(done(1, 10), 2), None);
        assert_eq!(steps.add(done(2, 5), 2), None);
        assert_eq!(steps.add(done(1, 30), 2), Some(done(1, 30)));
        assert_eq!(steps.add(done(2, 4), 2), Some(done(2, 5)));
        assert_eq!(steps.add(done(3, 7), 1), Some(done(3, 7)));
    }
}
