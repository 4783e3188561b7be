//! Growing pauses between attempts. The module reads no clock and does not sleep.

use std::time::Duration;

/// Pauses that double from the first to the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// Returns the pause before the next attempt. The next call returns twice that pause, up to the longest.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        pause
    }

    /// Goes back to the first pause, after an attempt that succeeded.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pauses = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));
        let mut next = || pauses.next_pause().as_millis();
        assert_eq!([next(), next(), next(), next(), next()], [100, 200, 400, 500, 500]);
        pauses.reset();
        assert_eq!(pauses.next_pause(), Duration::from_millis(100));
    }
}
