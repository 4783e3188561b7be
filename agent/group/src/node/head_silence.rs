//! Watch over the time without a message of the head.

use std::time::{Duration, Instant};

use super::session::TICK;

/// Time without a message of the head after which the node dials again. The head sends a pulse twice a second.
const HEAD_SILENCE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct HeadSilence {
    heard_at: Instant,
    /// Time of the last look.
    looked_at: Instant,
}

impl HeadSilence {
    pub(super) fn new(now: Instant) -> Self {
        Self { heard_at: now, looked_at: now }
    }

    pub(super) fn record_message(&mut self, now: Instant) {
        (self.heard_at, self.looked_at) = (now, now);
    }

    /// Returns true if the head has been silent for [`HEAD_SILENCE`]. The time in which this process itself was paused or
    /// starved does not count, for the head may have spoken in it.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let gap = now.duration_since(self.looked_at);
        self.looked_at = now;
        if gap > 2 * TICK {
            self.heard_at = (self.heard_at + gap).min(now);
        }
        now.duration_since(self.heard_at) > HEAD_SILENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_silent_only_while_this_process_runs() {
        let mut now = Instant::now();
        let mut head = HeadSilence::new(now);
        let mut run = |head: &mut HeadSilence, ticks: u32| {
            (0..ticks).any(|_| {
                now += TICK;
                head.is_over(now)
            })
        };
        assert!(!run(&mut head, 6));
        assert!(run(&mut head, 1));

        let mut now = Instant::now();
        let mut head = HeadSilence::new(now);
        for _ in 0..5 {
            now += Duration::from_secs(20);
            assert!(!head.is_over(now), "the process was paused");
        }
        now += TICK;
        head.record_message(now);
        assert!(!head.is_over(now + HEAD_SILENCE));
    }
}
