//! How often progress is written. What somebody has to act on, or waits for, is written at once; steps in between share
//! a budget of all clusters. A few clusters never feel it. A thousand at once do: their steps would cost the API server
//! more than their pods.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::conditions::{BRINGING_UP, holds};
use super::events::News;
use crate::resource::InferenceClusterStatus;
use crate::resource::status::condition::{DEGRADED, PROGRESSING, READY};

/// Writes that are there at once, and those that come each second.
const AT_ONCE: f64 = 50.0;
const A_SECOND: f64 = 5.0;
/// When a cluster whose step was not written is looked at again.
pub(super) const AGAIN: Duration = Duration::from_secs(5);

/// What is left of the budget, and since when.
#[derive(Debug)]
pub struct Pace(Mutex<(f64, Instant)>);

impl Default for Pace {
    fn default() -> Self {
        Self(Mutex::new((AT_ONCE, Instant::now())))
    }
}

impl Pace {
    /// Takes one write from what is left at `now`.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (writes, since) = *left;
        let writes = (writes + A_SECOND * now.saturating_duration_since(since).as_secs_f64()).min(AT_ONCE);
        let taken = writes >= 1.0;
        *left = (if taken { writes - 1.0 } else { writes }, now.max(since));
        taken
    }
}

/// Whether `after` is a step of bringing groups up that may wait: nothing serves that did not before, or no longer does,
/// nothing is in trouble or out of it, and nothing of the `news` between the two is a warning.
pub(super) fn may_wait(before: &InferenceClusterStatus, after: &InferenceClusterStatus, news: &[News]) -> bool {
    let same = |kind| holds(&before.conditions, kind, "True") == holds(&after.conditions, kind, "True");
    let brings_up = after.conditions.iter().any(|one| one.type_ == PROGRESSING && one.reason == BRINGING_UP);
    brings_up && same(READY) && same(DEGRADED) && !news.iter().any(|news| news.warning)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::reconcile::now;
    use crate::reconcile::status::events::news;

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
    fn only_steps_on_the_way_up_wait() {
        let brought_up = (PROGRESSING, "True", BRINGING_UP);
        let (none, new) =
            (status(&[]), status(&[(READY, "False", "Creating"), brought_up, (DEGRADED, "False", "AsExpected")]));
        let loads = status(&[(READY, "False", "Loading"), brought_up, (DEGRADED, "False", "AsExpected")]);
        let may_wait = |before, after| may_wait(before, after, &news(before, after));
        assert!(may_wait(&none, &new) && may_wait(&new, &loads));
        let serves = status(&[(READY, "True", "Serving"), brought_up]);
        let fails = status(&[(READY, "False", "ImagePull"), brought_up, (DEGRADED, "True", "ImagePull")]);
        let rolls = status(&[(READY, "False", "Updating"), (PROGRESSING, "True", "RollingOut")]);
        for (before, after) in [(&new, &serves), (&serves, &new), (&none, &fails), (&fails, &new), (&new, &rolls)] {
            assert!(!may_wait(before, after), "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_burst_and_then_a_trickle() {
        let (pace, began) = (Pace::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!((0..100).filter(|_| pace.take(at(1))).count(), 50);
        assert_eq!((0..100).filter(|_| pace.take(at(3))).count(), 10);
        assert_eq!(
            (0..100).filter(|_| pace.take(at(2))).count(),
            0,
            "a clock that seems to run backwards adds nothing"
        );
        assert_eq!((0..100).filter(|_| pace.take(at(1000))).count(), 50);
    }
}
