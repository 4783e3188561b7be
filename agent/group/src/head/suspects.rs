//! Requests that may be the cause of failed epochs. A rank that crashes by itself costs no request, and a request that
//! crashes ranks costs no other one.
//!
//! A request is *unproven* from its admission to an epoch until its next token. If the epoch fails in this time, the request
//! may be the cause. After [`MAX_FAILURES`] such epochs the request is held back: the others go on without it. Once the
//! group has served for a while, the requests that were held back are tried again, one at a time. A request whose trials fail
//! as often again is guilty. The while grows with each failed trial. So a rank that dies soon after each start fails no
//! trial.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use lockstep_schedule::plan::SeqId;

/// Failed epochs in a row after which a request is held back, and failed trials after which it is guilty.
const MAX_FAILURES: u32 = 3;

/// Time for which the group must have served before the first trial of a request. It doubles with each failed trial.
const FIRST_PROOF: Duration = Duration::from_secs(1);

/// Decision about the requests after an epoch has failed.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    /// Requests to hold back.
    pub hold: Vec<SeqId>,
    /// Requests to fail, each with the number of epochs that failed while the ranks computed it.
    pub guilty: Vec<(SeqId, u32)>,
}

/// The head's memory of failed epochs.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    unproven: HashSet<SeqId>,
    /// Failed epochs since the last token, of each request that has seen one.
    failures: HashMap<SeqId, u32>,
    /// Requests that are held back, in the order of their trials.
    held: VecDeque<SeqId>,
    /// Request that is tried now.
    trial: Option<SeqId>,
}

impl Suspects {
    /// Notes that the ranks have begun to compute a request.
    pub(super) fn admit(&mut self, id: SeqId) {
        self.unproven.insert(id);
    }

    /// Notes that a request has got a token, or has ended.
    pub(super) fn clear(&mut self, id: SeqId) {
        self.unproven.remove(&id);
        if self.failures.remove(&id).is_some() {
            self.held.retain(|held| *held != id);
            self.trial.take_if(|trial| *trial == id);
        }
    }

    /// Notes that the epoch has ended without a failure.
    pub(super) fn end_epoch(&mut self) {
        self.unproven.clear();
        self.hold_trial();
    }

    /// Notes that the epoch has failed.
    pub(super) fn fail_epoch(&mut self) -> Verdict {
        let mut verdict = Verdict::default();
        let mut unproven: Vec<SeqId> = self.unproven.drain().collect();
        unproven.sort_unstable();
        for id in unproven {
            let failures = self.failures.entry(id).or_default();
            *failures += 1;
            match *failures {
                count if count >= 2 * MAX_FAILURES => {
                    verdict.guilty.push((id, count));
                    self.clear(id);
                }
                MAX_FAILURES => {
                    verdict.hold.push(id);
                    self.held.push_back(id);
                }
                _ => {}
            }
        }
        verdict.hold.extend(self.hold_trial());
        verdict
    }

    /// Returns the request to try next, if none is tried now and the group has served for long enough.
    pub(super) fn next_trial(&mut self, served_for: Duration) -> Option<SeqId> {
        if self.trial.is_some() {
            return None;
        }
        let is_due = |id: &SeqId| {
            let failed_trials = self.failures.get(id).map_or(0, |failures| failures.saturating_sub(MAX_FAILURES));
            served_for >= FIRST_PROOF * (1 << failed_trials.min(MAX_FAILURES))
        };
        let index = self.held.iter().position(is_due)?;
        self.trial = self.held.remove(index);
        self.trial
    }

    /// Ends a trial without a result. The request is tried again after the others.
    fn hold_trial(&mut self) -> Option<SeqId> {
        let trial = self.trial.take()?;
        self.held.push_back(trial);
        Some(trial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn fail_epochs(suspects: &mut Suspects, ids: &[SeqId], count: u32) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for _ in 0..count {
            ids.iter().for_each(|id| suspects.admit(*id));
            verdicts.push(suspects.fail_epoch());
        }
        verdicts
    }

    #[test]
    fn a_crash_loop_holds_requests_back_and_fails_none() {
        let mut suspects = Suspects::default();
        let verdicts = fail_epochs(&mut suspects, &[1, 2, 3], MAX_FAILURES);
        assert_eq!(verdicts.last().unwrap(), &Verdict { hold: vec![1, 2, 3], guilty: vec![] });
        // Without them, the group fails as before: they are innocent.
        assert_eq!(fail_epochs(&mut suspects, &[], 50).pop(), Some(Verdict::default()));
        for id in [1, 2, 3] {
            assert_eq!(
                (suspects.next_trial(FIRST_PROOF), suspects.next_trial(FIRST_PROOF)),
                (Some(id), None),
                "one at a time"
            );
            suspects.admit(id);
            suspects.clear(id);
        }
        assert_eq!(suspects.next_trial(LONG), None);
        assert!(suspects.failures.is_empty() && suspects.unproven.is_empty());
    }

    #[test]
    fn a_request_whose_trials_fail_is_guilty_and_the_others_are_not() {
        let mut suspects = Suspects::default();
        fail_epochs(&mut suspects, &[1, 2], MAX_FAILURES);
        let mut guilty = Vec::new();
        for _ in 0..2 * MAX_FAILURES {
            let Some(id) = suspects.next_trial(LONG) else { break };
            suspects.admit(id);
            if id == 2 {
                suspects.clear(2);
            } else {
                guilty.extend(suspects.fail_epoch().guilty);
            }
        }
        assert_eq!(guilty, [(1, 2 * MAX_FAILURES)]);
        assert_eq!(suspects.next_trial(LONG), None);
    }

    #[test]
    fn a_trial_waits_until_the_group_has_served() {
        let mut suspects = Suspects::default();
        fail_epochs(&mut suspects, &[1], MAX_FAILURES);
        for proof in [1, 2, 4].map(Duration::from_secs) {
            assert_eq!(suspects.next_trial(proof - Duration::from_millis(1)), None);
            assert_eq!(suspects.next_trial(proof), Some(1));
            suspects.admit(1);
            let verdict = suspects.fail_epoch();
            assert_eq!(verdict.guilty.is_empty(), proof < Duration::from_secs(4), "{verdict:?}");
        }
    }

    #[test]
    fn a_token_or_the_end_of_a_request_clears_it() {
        let mut suspects = Suspects::default();
        fail_epochs(&mut suspects, &[1], MAX_FAILURES - 1);
        suspects.clear(1);
        assert_eq!(fail_epochs(&mut suspects, &[1], MAX_FAILURES - 1).pop(), Some(Verdict::default()));
        fail_epochs(&mut suspects, &[1], 1);
        assert_eq!(suspects.next_trial(LONG), Some(1));
        suspects.end_epoch();
        assert_eq!(suspects.next_trial(LONG), Some(1), "its trial had no result");
        suspects.clear(1);
        assert_eq!(suspects.next_trial(LONG), None);
    }
}
