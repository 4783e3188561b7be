//! Watch over the time without a message of the head.

use std::time::{Duration, Instant};

use super::session::TICK;
use crate::own_pause::OwnPause;

/// Time without a message of the head after which the node dials again. The head sends a pulse twice a second.
const HEAD_SILENCE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct HeadSilence {
    heard_at: Instant,
    own_pause: OwnPause,
}

impl HeadSilence {
    pub(super) fn new(now: Instant) -> Self {
        let mut silence = Self { heard_at: now, own_pause: OwnPause::new(2 * TICK) };
        silence.record_message(now);
        silence
    }

    pub(super) fn record_message(&mut self, now: Instant) {
        self.heard_at = now;
        self.own_pause.look(now);
    }

    /// Returns true if the head has been silent for [`HEAD_SILENCE`]. The time in which this process itself was paused or
    /// starved does not count, for the head may have spoken in it.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        if let Some(pause) = self.own_pause.look(now) {
            self.heard_at = (self.heard_at + pause).min(now);
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
