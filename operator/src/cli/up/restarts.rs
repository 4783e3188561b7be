//! The decision whether and when to start a dead process again. The caller measures how long the process lived: this
//! module reads no clock.

use std::time::Duration;

use lockstep_proto::backoff::Backoff;

/// Pauses between a death and the next start.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
/// Lifetime after which a process counts as started: the pauses begin anew.
const LIVED: Duration = Duration::from_secs(20);
/// Ends in a row, each before `LIVED` and by the process itself, after which the supervisor gives up. A process that was
/// killed is always started again.
const MOST_ENDS: u32 = 8;
/// Exit status of a program that refuses its configuration: the next start would have the same configuration.
pub(super) const MISTAKE: i32 = 2;

/// Decision after the death of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The process is started again after a pause.
    Again(Duration),
    /// The process would die again.
    GiveUp,
}

/// Ends of one process so far, and the pause after the next.
#[derive(Debug)]
pub(super) struct Restarts {
    ends: u32,
    pauses: Backoff,
}

impl Restarts {
    pub(super) fn new() -> Self {
        Self { ends: 0, pauses: PAUSES }
    }

    /// Decides what follows the death of a process that `lived` so long. `status` is `None` if a signal ended it.
    pub(super) fn decide(&mut self, lived: Duration, status: Option<i32>) -> Next {
        if lived >= LIVED {
            *self = Self::new();
        }
        self.ends = if status.is_some() { self.ends + 1 } else { 0 };
        if self.ends >= MOST_ENDS || (status == Some(MISTAKE) && lived < LIVED) {
            return Next::GiveUp;
        }
        Next::Again(self.pauses.next_pause())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Next, Restarts};

    /// Compares the decisions after deaths, given as (seconds lived, status), with the pauses in milliseconds; `None`:
    /// the supervisor gives up.
    fn check(deaths: &[(u64, Option<i32>)], pauses: &[Option<u128>]) {
        let mut restarts = Restarts::new();
        let next = |(lived, status): &(u64, Option<i32>)| match restarts.decide(Duration::from_secs(*lived), *status) {
            Next::Again(pause) => Some(pause.as_millis()),
            Next::GiveUp => None,
        };
        assert_eq!(deaths.iter().map(next).collect::<Vec<_>>(), pauses);
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let pauses = [250, 500, 1000, 2000, 4000, 8000, 10000].map(Some);
        check(&[(1, Some(1)); 8], &[&pauses[..], &[None]].concat());
        check(&[(1, None); 9], &[&pauses[..], &[Some(10_000); 2]].concat());
    }

    #[test]
    fn a_long_life_starts_anew() {
        check(&[(1, None), (1, Some(1)), (60, None), (60, None)], &[Some(250), Some(500), Some(250), Some(250)]);
    }

    #[test]
    fn a_mistake_is_not_repeated() {
        check(&[(0, Some(2))], &[None]);
        check(&[(60, Some(2))], &[Some(250)]);
    }
}
