//! The clock by which the operator decides. A simulation makes it follow the simulated time of its thread.

use std::cell::Cell;
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

thread_local! {
    static SIMULATED: Cell<Option<(Instant, Timestamp)>> = const { Cell::new(None) };
}

/// Returns the time of day.
pub(crate) fn now() -> Timestamp {
    let Some((instant, then)) = SIMULATED.get() else { return Timestamp::now() };
    then + SignedDuration::try_from(instant.elapsed()).unwrap_or_default()
}

/// Returns the time since `since`, or zero if `since` is in the future.
pub(crate) fn elapsed(since: Timestamp) -> Duration {
    now().duration_since(since).try_into().unwrap_or_default()
}

/// Makes the time of day on this thread follow the clock of its Tokio runtime, which may be a paused one. It is `then` now.
pub fn simulate(then: Timestamp) {
    SIMULATED.set(Some((Instant::now(), then)));
}
