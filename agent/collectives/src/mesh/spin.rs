//! How long to look for bytes before sleeping, learnt from what looking has brought.
//!
//! Where the peer runs on another core, bytes come within microseconds and a sleep costs more than it saves. Where it
//! waits for this very core, or the machine is busy, looking only delays it. Which of the two it is shows only by
//! trying, so the budget doubles when looking paid, halves when it did not, and now and then is tried in full again.

use std::time::Duration;

/// Longest look: several times a hop between two processes on two cores.
const LONGEST: Duration = Duration::from_micros(50);

/// Shortest look worth its bookkeeping; below, none is taken.
const SHORTEST: Duration = Duration::from_micros(2);

/// After so many sleeps the longest look is tried again: at most 50 µs in 64 sleeps.
const SLEEPS_BETWEEN_TRIALS: u32 = 64;

/// The learnt budget of one rank.
#[derive(Debug)]
pub(crate) struct Spin {
    budget: Duration,
    sleeps: u32,
}

impl Spin {
    /// Without `enabled` the budget is and stays zero.
    pub(crate) fn new(enabled: bool) -> Option<Self> {
        enabled.then_some(Self { budget: LONGEST, sleeps: 0 })
    }

    /// For how long to look now.
    pub(crate) fn budget(&self) -> Duration {
        self.budget
    }

    /// Bytes came while looking.
    pub(crate) fn paid(&mut self) {
        self.budget = (self.budget * 2).clamp(SHORTEST, LONGEST);
    }

    /// Nothing came within the budget, and the rank goes to sleep.
    pub(crate) fn gave_up(&mut self) {
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
    fn looking_in_vain_fades_and_is_tried_again() {
        let mut spin = Spin::new(true).unwrap();
        let budgets: Vec<_> = (0..SLEEPS_BETWEEN_TRIALS)
            .map(|_| {
                let budget = spin.budget();
                spin.gave_up();
                budget
            })
            .collect();
        assert!(budgets.iter().sum::<Duration>() <= LONGEST * 2, "{budgets:?}");
        assert_eq!(spin.budget(), LONGEST);
    }

    #[test]
    fn looking_that_pays_is_kept_up() {
        let mut spin = Spin::new(true).unwrap();
        spin.gave_up();
        spin.gave_up();
        spin.paid();
        spin.paid();
        spin.paid();
        assert_eq!(spin.budget(), LONGEST);
        assert!(Spin::new(false).is_none());
    }
}
