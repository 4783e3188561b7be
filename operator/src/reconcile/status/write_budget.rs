//! Rate limit of status writes. The operator writes a change at once if somebody has to act on it or waits for it. All
//! clusters share a budget for the steps in between (creating, loading). A few clusters never reach the limit. Without
//! the limit, the steps of a thousand clusters at once would cost the API server more than their pods.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::conditions::{BRINGING_UP, has_status};
use super::events::Change;
use crate::resource::InferenceClusterStatus;
use crate::resource::status::condition::{DEGRADED, PROGRESSING, READY};

/// Largest number of writes in a burst.
const BURST: f64 = 50.0;
/// Number of writes that the budget gains each second.
const WRITES_PER_SECOND: f64 = 5.0;
/// Time after which the operator tries again to write a status that had to wait.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Remaining number of writes, and the time at which it was computed.
#[derive(Debug)]
pub struct WriteBudget(Mutex<(f64, Instant)>);

impl Default for WriteBudget {
    fn default() -> Self {
        Self(Mutex::new((BURST, Instant::now())))
    }
}

impl WriteBudget {
    /// Takes one write from the budget. Returns false if none remains.
    pub(super) fn take_write(&self, now: Instant) -> bool {
        let mut budget = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (writes, since) = *budget;
        let writes = (writes + WRITES_PER_SECOND * now.saturating_duration_since(since).as_secs_f64()).min(BURST);
        let taken = writes >= 1.0;
        *budget = (if taken { writes - 1.0 } else { writes }, now.max(since));
        taken
    }
}

/// Returns true if `after` is a step of groups that come up and may be written later. `Ready` and `Degraded` are the
/// same as in `before`, and no change is a warning.
pub(super) fn may_wait(before: &InferenceClusterStatus, after: &InferenceClusterStatus, changes: &[Change]) -> bool {
    let same = |kind| has_status(&before.conditions, kind, "True") == has_status(&after.conditions, kind, "True");
    let brings_up = after.conditions.iter().any(|one| one.type_ == PROGRESSING && one.reason == BRINGING_UP);
    brings_up && same(READY) && same(DEGRADED) && !changes.iter().any(|change| change.warning)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::clock::now;
    use crate::reconcile::status::events::find_changes;

    fn status(conditions: &[(&str, &str, &str)]) -> InferenceClusterStatus {
        let condition = |&(kind, status, reason): &(&str, &str, &str)| Condition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(now()),
        };
        InferenceClusterStatus { conditions: conditions.iter().map(condition).collect(), ..Default::default() }
    }

    #[test]
    fn only_steps_of_groups_that_come_up_wait() {
        let brought_up = (PROGRESSING, "True", BRINGING_UP);
        let (none, new) =
            (status(&[]), status(&[(READY, "False", "Creating"), brought_up, (DEGRADED, "False", "AsExpected")]));
        let loads = status(&[(READY, "False", "Loading"), brought_up, (DEGRADED, "False", "AsExpected")]);
        let may_wait = |before, after| may_wait(before, after, &find_changes(before, after));
        assert!(may_wait(&none, &new) && may_wait(&new, &loads));
        let serves = status(&[(READY, "True", "Serving"), brought_up]);
        let fails = status(&[(READY, "False", "ImagePull"), brought_up, (DEGRADED, "True", "ImagePull")]);
        let rolls = status(&[(READY, "False", "Updating"), (PROGRESSING, "True", "RollingOut")]);
        for (before, after) in [(&new, &serves), (&serves, &new), (&none, &fails), (&fails, &new), (&new, &rolls)] {
            assert!(!may_wait(before, after), "{before:?} {after:?}");
        }
    }

    #[test]
    fn writes_are_limited_after_a_burst() {
        let (budget, start) = (WriteBudget::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((0..100).filter(|_| budget.take_write(at(1))).count(), 50);
        assert_eq!((0..100).filter(|_| budget.take_write(at(3))).count(), 10);
        assert_eq!(
            (0..100).filter(|_| budget.take_write(at(2))).count(),
            0,
            "a clock that runs backwards adds nothing"
        );
        assert_eq!((0..100).filter(|_| budget.take_write(at(1000))).count(), 50);
    }
}
