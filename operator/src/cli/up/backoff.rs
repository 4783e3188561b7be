//! When a process that died is started again. Pure: it is told how long the process lived, and reads no clock.

use std::time::Duration;

/// Pause before the first start again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A process that lived this long had come up: pauses start anew.
const LIVED: Duration = Duration::from_secs(20);
/// So many deaths in a row, each before `LIVED`, mean that starting again does not help.
const MOST_DEATHS: u32 = 8;
/// Exit status of a program that was told something wrong: it would be told the same again.
const MISTAKE: i32 = 2;

/// What becomes of a process that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is started again after a pause.
    Again(Duration),
    /// It would die again.
    GiveUp,
}

/// Deaths of one process, so far.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// The process died after it `lived` so long, with an exit status or (`None`) by a signal.
    pub(super) fn died(&mut self, lived: Duration, status: Option<i32>) -> Next {
        if lived >= LIVED {
            self.deaths = 0;
        }
        self.deaths += 1;
        if self.deaths >= MOST_DEATHS || (status == Some(MISTAKE) && lived < LIVED) {
            return Next::GiveUp;
        }
        Next::Again((FIRST_PAUSE * 2_u32.pow(self.deaths - 1)).min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Backoff, Next};

    /// Deaths as (seconds lived, status) → milliseconds of the pauses; `None`: given up.
    fn check(deaths: &[(u64, Option<i32>)], pauses: &[Option<u128>]) {
        let mut backoff = Backoff::default();
        let next = |(lived, status): &(u64, Option<i32>)| match backoff.died(Duration::from_secs(*lived), *status) {
            Next::Again(pause) => Some(pause.as_millis()),
            Next::GiveUp => None,
        };
        assert_eq!(deaths.iter().map(next).collect::<Vec<_>>(), pauses);
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let pauses = [250, 500, 1000, 2000, 4000, 8000, 10000].map(Some);
        check(&[(1, None); 8], &[&pauses[..], &[None]].concat());
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
