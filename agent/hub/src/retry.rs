//! Number of attempts of one request, and the pauses between them.

use std::time::Duration;

use lockstep_proto::backoff::Backoff;

/// Limits of the attempts of one request.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Most attempts in a row that make no progress.
    pub tries: u32,
    /// Pauses between the attempts.
    pub pauses: Backoff,
    /// Longest pause that the hub may ask for.
    pub longest_requested: Duration,
}

/// Attempts of one request so far.
#[derive(Debug)]
pub(crate) struct Retries {
    policy: RetryPolicy,
    pauses: Backoff,
    tries: u32,
}

impl Retries {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, pauses: policy.pauses, tries: 0 }
    }

    /// Returns the pause after a failed attempt, or `None` after the last attempt. `requested` is the pause that the hub
    /// asked for.
    pub(crate) fn next_pause(&mut self, requested: Option<Duration>) -> Option<Duration> {
        self.tries += 1;
        if self.tries >= self.policy.tries {
            return None;
        }
        let pause = self.pauses.next_pause();
        // Up to a quarter more, so that clients that were refused together do not come back together.
        let spread = pause.mul_f64((uuid::Uuid::new_v4().as_u128() % 256) as f64 / 1024.0);
        Some((pause + spread).max(requested.unwrap_or_default().min(self.policy.longest_requested)))
    }

    /// Starts to count again, after an attempt that made progress.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
        self.pauses.reset();
    }

    /// Returns the number of attempts in a row that made no progress.
    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let second = Duration::from_secs(1);
        let pauses = Backoff::new(second, 3 * second);
        let mut retries = Retries::new(RetryPolicy { tries: 5, pauses, longest_requested: 60 * second });
        let within = |pause: Option<Duration>, least: u32| {
            let pause = pause.unwrap();
            assert!((least * second..=least * second * 5 / 4).contains(&pause), "{pause:?}");
        };
        within(retries.next_pause(None), 1);
        within(retries.next_pause(None), 2);
        within(retries.next_pause(None), 3);
        assert_eq!(retries.next_pause(Some(1000 * second)), Some(60 * second));
        assert_eq!((retries.next_pause(None), retries.tries()), (None, 5));
        retries.reset();
        within(retries.next_pause(None), 1);
    }
}
