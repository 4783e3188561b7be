//! How often a question is asked again, and after how long.

use std::time::Duration;

/// The patience with one question.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Tries in a row that get no further.
    pub tries: u32,
    /// The first pause; each is twice the one before it, up to the last.
    pub first: Duration,
    pub last: Duration,
    /// Longest pause that the hub may ask for.
    pub asked: Duration,
}

/// Where one question is in its patience.
#[derive(Debug)]
pub(crate) struct Backoff {
    patience: Patience,
    tries: u32,
}

impl Backoff {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { patience, tries: 0 }
    }

    /// A try failed: the pause before the next; `None` where it was the last. `after` is what the hub asked for.
    pub(crate) fn next(&mut self, after: Option<Duration>) -> Option<Duration> {
        self.tries += 1;
        if self.tries >= self.patience.tries {
            return None;
        }
        let doubled = self.patience.first.saturating_mul(1 << (self.tries - 1).min(16)).min(self.patience.last);
        // Up to a quarter more, so that those who were turned away together do not come back together.
        let spread = doubled.mul_f64((uuid::Uuid::new_v4().as_u128() % 256) as f64 / 1024.0);
        Some((doubled + spread).max(after.unwrap_or_default().min(self.patience.asked)))
    }

    /// A try got further.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }

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
        let mut backoff = Backoff::new(Patience { tries: 5, first: second, last: 3 * second, asked: 60 * second });
        let within = |pause: Option<Duration>, least: u32| {
            let pause = pause.unwrap();
            assert!((least * second..=least * second * 5 / 4).contains(&pause), "{pause:?}");
        };
        within(backoff.next(None), 1);
        within(backoff.next(None), 2);
        within(backoff.next(None), 3);
        assert_eq!(backoff.next(Some(1000 * second)), Some(60 * second));
        assert_eq!((backoff.next(None), backoff.tries()), (None, 5));
        backoff.reset();
        within(backoff.next(None), 1);
    }
}
