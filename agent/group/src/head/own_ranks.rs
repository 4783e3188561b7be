//! Supervision of the head's own ranks, which are a child process: when to start it, and when it hangs.

use std::time::{Duration, Instant};

use lockstep_proto::backoff::Backoff;
use lockstep_proto::v1::{ClusterStatus, Phase};

/// Pauses between the child's death and its next start.
const RESTART_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
/// Lifetime after which a child counts as healthy, even if its ranks never served. The pauses then start again from the
/// shortest.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// Time after which a running child counts as hung that the group has lost. A child that can do so dials again within a
/// few seconds.
const HUNG_AFTER: Duration = Duration::from_secs(20);

/// What the head must do now about its own ranks.
#[derive(Debug, PartialEq, Eq)]
pub enum OwnRanksAction {
    Start,
    /// Kill the child: it runs, and the group has lost it for too long.
    Kill,
    /// Nothing before this time, or before the child or the group's status changes.
    Wait(Option<Instant>),
}

/// State of the head's own ranks.
#[derive(Debug)]
pub struct OwnRanks {
    backoff: Backoff,
    child: Child,
}

#[derive(Debug)]
enum Child {
    /// There is none. It starts at this time.
    Ended {
        start_at: Instant,
    },
    Running {
        pid: u32,
        started_at: Instant,
        has_served: bool,
        lost_since: Option<Instant>,
    },
}

impl OwnRanks {
    /// The child starts at once.
    pub fn new(now: Instant) -> Self {
        Self { backoff: RESTART_BACKOFF, child: Child::Ended { start_at: now } }
    }

    /// Notes that the child runs.
    pub fn record_start(&mut self, pid: u32, now: Instant) {
        self.child = Child::Running { pid, started_at: now, has_served: false, lost_since: None };
    }

    /// Notes that the child has ended, or could not be started.
    pub fn record_end(&mut self, now: Instant) {
        if let Child::Running { started_at, has_served, .. } = self.child
            && (has_served || now.duration_since(started_at) > HEALTHY_AFTER)
        {
            self.backoff.reset();
        }
        self.child = Child::Ended { start_at: now + self.backoff.next_pause() };
    }

    /// Notes what the group's status says about the child.
    pub fn record_status(&mut self, status: &ClusterStatus, now: Instant) {
        let Child::Running { pid, has_served, lost_since, .. } = &mut self.child else { return };
        let own = status.ranks.first().filter(|rank| rank.pid == *pid);
        *has_served |= own.is_some_and(|rank| rank.phase() == Phase::Serving);
        let is_lost = own.is_some_and(|rank| rank.phase() == Phase::Lost);
        *lost_since = if is_lost { lost_since.or(Some(now)) } else { None };
    }

    /// Returns what to do now.
    pub fn next_action(&self, now: Instant) -> OwnRanksAction {
        match self.child {
            Child::Ended { start_at } if now >= start_at => OwnRanksAction::Start,
            Child::Ended { start_at } => OwnRanksAction::Wait(Some(start_at)),
            Child::Running { lost_since: Some(since), .. } if now >= since + HUNG_AFTER => OwnRanksAction::Kill,
            Child::Running { lost_since, .. } => OwnRanksAction::Wait(lost_since.map(|since| since + HUNG_AFTER)),
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::v1::RankStatus;

    use super::*;

    fn status(pid: u32, phase: Phase) -> ClusterStatus {
        let rank = RankStatus { pid, phase: phase.into(), ..Default::default() };
        ClusterStatus { ranks: vec![rank], ..Default::default() }
    }

    #[test]
    fn a_child_that_is_lost_for_long_is_killed() {
        let now = Instant::now();
        let mut own = OwnRanks::new(now);
        assert_eq!(own.next_action(now), OwnRanksAction::Start);
        own.record_start(7, now);
        assert_eq!(own.next_action(now), OwnRanksAction::Wait(None));
        // The status may still speak of the process before.
        own.record_status(&status(6, Phase::Lost), now);
        assert_eq!(own.next_action(now + 2 * HUNG_AFTER), OwnRanksAction::Wait(None));
        own.record_status(&status(7, Phase::Lost), now);
        let late = now + HUNG_AFTER;
        assert_eq!(own.next_action(now), OwnRanksAction::Wait(Some(late)));
        assert_eq!(own.next_action(late), OwnRanksAction::Kill);
        own.record_status(&status(7, Phase::Loading), late);
        assert_eq!(own.next_action(late), OwnRanksAction::Wait(None), "it came back");
    }

    #[test]
    fn pauses_grow_until_a_child_was_healthy() {
        let mut now = Instant::now();
        let mut own = OwnRanks::new(now);
        let mut pause_after = |own: &mut OwnRanks, life: Duration, phase| {
            own.record_start(7, now);
            own.record_status(&status(7, phase), now);
            now += life;
            own.record_end(now);
            let OwnRanksAction::Wait(Some(start_at)) = own.next_action(now) else { panic!("no pause") };
            let pause = start_at - now;
            now = start_at;
            pause.as_millis()
        };
        let short = Duration::from_secs(1);
        assert_eq!([(); 3].map(|()| pause_after(&mut own, short, Phase::Loading)), [100, 200, 400]);
        assert_eq!(pause_after(&mut own, short, Phase::Serving), 100);
        assert_eq!(pause_after(&mut own, short, Phase::Loading), 200);
        assert_eq!(pause_after(&mut own, 2 * HEALTHY_AFTER, Phase::Loading), 100);
    }
}
