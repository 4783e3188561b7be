//! The time for which a rank polls for bytes before it sleeps. The rank learns it from experience.
//!
//! If the peer runs on another core, bytes come within microseconds, and a sleep costs more than it saves. If the peer
//! waits for this core, or the machine is busy, polling only delays the peer. The rank finds out by trying. So the
//! budget doubles when bytes came while polling, and halves when none came. Now and then the rank tries the longest
//! budget again.

use std::time::Duration;

/// Longest budget: several times the latency between two processes on two cores.
const LONGEST: Duration = Duration::from_micros(50);

/// Shortest budget that is worth its bookkeeping. The rank does not poll with a shorter one.
const SHORTEST: Duration = Duration::from_micros(2);

/// Number of sleeps after which the rank tries the longest budget again. That costs at most 50 µs in 64 sleeps.
const SLEEPS_BETWEEN_TRIALS: u32 = 64;

/// Polling budget of one rank.
#[derive(Debug)]
pub(crate) struct Spin {
    budget: Duration,
    sleeps: u32,
}

impl Spin {
    /// Makes a budget, or returns `None` unless `enabled`.
    pub(crate) fn new(enabled: bool) -> Option<Self> {
        enabled.then_some(Self { budget: LONGEST, sleeps: 0 })
    }

    /// Returns the time for which to poll now.
    pub(crate) fn budget(&self) -> Duration {
        self.budget
    }

    /// Records that bytes came while the rank polled.
    pub(crate) fn record_hit(&mut self) {
        self.budget = (self.budget * 2).clamp(SHORTEST, LONGEST);
    }

    /// Records that no byte came within the budget, and that the rank sleeps.
    pub(crate) fn record_miss(&mut self) {
        self.sleeps += 1;
        self.budget /= 2;
        if self.budget < SHORTEST {
            self.budget = Duration::ZERO;
        }
        if self.sleeps == SLEEPS_BETWEEN_TRIALS {
            (self.sleeps, self.budget) = (0, LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_without_bytes_fades_and_is_tried_again() {
        let mut spin = Spin::new(true).unwrap();
        let budgets: Vec<_> = (0..SLEEPS_BETWEEN_TRIALS)
            .map(|_| {
                let budget = spin.budget();
                spin.record_miss();
                budget
            })
            .collect();
        assert!(budgets.iter().sum::<Duration>() <= LONGEST * 2, "{budgets:?}");
        assert_eq!(spin.budget(), LONGEST);
    }

    #[test]
    fn polling_that_brings_bytes_goes_on() {
        let mut spin = Spin::new(true).unwrap();
        spin.record_miss();
        spin.record_miss();
        spin.record_hit();
        spin.record_hit();
        spin.record_hit();
        assert_eq!(spin.budget(), LONGEST);
        assert!(Spin::new(false).is_none());
    }
}
