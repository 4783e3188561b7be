//! The pauses between dials of a head that does not answer.

use std::time::Duration;

use lockstep_proto::backoff::Backoff;

/// Pauses between dials that fail.
const DIAL_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
/// Number of failed dials in a row that the log shows at debug level only. A head that starts together with its workers
/// needs some time.
const QUIET_FAILURES: u32 = 3;

/// Failed dials in a row, and the pause after each.
pub(super) struct FailedDials {
    failures: u32,
    backoff: Backoff,
}

impl Default for FailedDials {
    fn default() -> Self {
        Self { failures: 0, backoff: DIAL_BACKOFF }
    }
}

impl FailedDials {
    /// Counts and logs a failure. Returns the pause before the next dial. After [`QUIET_FAILURES`] failures in a row,
    /// the 4th, 8th, 16th and so on is logged as a warning.
    pub(super) fn record_failure(&mut self, control: &str, reason: &str) -> Duration {
        self.failures += 1;
        if self.failures > QUIET_FAILURES && self.failures.is_power_of_two() {
            tracing::warn!(head = control, failures = self.failures, reason, "no stream to the head: trying again");
        } else {
            tracing::debug!(head = control, failures = self.failures, reason, "no stream to the head: trying again");
        }
        self.backoff.next_pause()
    }
}
