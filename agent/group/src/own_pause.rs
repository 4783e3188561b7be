//! Pauses of this process itself: it was stopped, or got no CPU. Nobody else is to blame for the silence in them.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct OwnPause {
    /// Time between two looks above which the process counts as paused.
    threshold: Duration,
    /// Time of the last look. `None` before the first.
    looked_at: Option<Instant>,
}

impl OwnPause {
    pub(crate) const fn new(threshold: Duration) -> Self {
        Self { threshold, looked_at: None }
    }

    /// Looks at the clock. Returns the time for which the process was paused since the last look, or `None` if it was not.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Duration> {
        let gap = now.duration_since(self.looked_at.replace(now)?);
        (gap > self.threshold).then_some(gap)
    }
}
