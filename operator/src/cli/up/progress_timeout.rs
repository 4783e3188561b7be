//! Timeout of `lockstep up --prompt`: the wait for a ready group ends when the group has made no progress for the time
//! of `--ready-timeout`.

use std::time::{Duration, Instant};

use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};

/// Interval between two checks of the timeout while nothing changes.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Timeout that starts anew with each progress of a group. Only a state that the group has never reached before counts
/// as progress, so that a rank that loads and dies again and again does not make the wait endless.
pub(super) struct ProgressTimeout {
    limit: Duration,
    last_progress: Instant,
    /// Highest sum of the ranks' phases, most bytes downloaded, and most bytes loaded so far.
    best: (i64, u64, u64),
}

impl ProgressTimeout {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, last_progress: Instant::now(), best: (-1, 0, 0) }
    }

    /// Records the status. Returns a message if the group has made no progress for too long.
    pub(super) fn check(&mut self, status: Option<&ClusterStatus>) -> Option<String> {
        self.check_at(Instant::now(), status)
    }

    fn check_at(&mut self, now: Instant, status: Option<&ClusterStatus>) -> Option<String> {
        if status.is_some_and(|status| self.record_progress(status)) {
            self.last_progress = now;
        }
        if now.duration_since(self.last_progress) < self.limit {
            return None;
        }
        let pending = match status {
            None => "the head cannot be reached".to_owned(),
            Some(status) if status.pending.is_empty() => "the group is not ready".to_owned(),
            Some(status) => status.pending.join("; "),
        };
        let seconds = self.limit.as_secs();
        Some(format!("no progress for {seconds} s: {pending}; see the log lines above, or raise --ready-timeout"))
    }

    /// Returns true if the group has reached a new best state.
    fn record_progress(&mut self, status: &ClusterStatus) -> bool {
        let phase = |phase: Phase| if phase == Phase::Lost { 0 } else { i64::from(phase as i32) };
        let phases = status.ranks.iter().map(|rank| phase(rank.phase())).sum::<i64>();
        // Downloaded bytes are loaded afterwards, and are counted separately.
        let (downloading, loading): (Vec<_>, Vec<_>) =
            status.ranks.iter().partition(|rank| rank.phase() == Phase::Downloading);
        let bytes = |ranks: &[&RankStatus]| ranks.iter().map(|rank| rank.bytes_loaded).fold(0, u64::saturating_add);
        let (downloaded, loaded) = (bytes(&downloading), bytes(&loading));
        let progress = phases > self.best.0 || downloaded > self.best.1 || loaded > self.best.2;
        self.best = (self.best.0.max(phases), self.best.1.max(downloaded), self.best.2.max(loaded));
        progress
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};

    use super::ProgressTimeout;

    fn status(phase: Phase, bytes_loaded: u64) -> ClusterStatus {
        let rank = RankStatus { phase: phase.into(), bytes_loaded, ..Default::default() };
        ClusterStatus { ranks: vec![rank], pending: vec!["rank 0: Loading".into()], ..Default::default() }
    }

    #[test]
    fn only_new_progress_counts() {
        let mut timeout = ProgressTimeout::new(Duration::from_secs(10));
        let start = timeout.last_progress;
        let mut timed_out = |seconds: u64, status: Option<&ClusterStatus>| {
            timeout.check_at(start + Duration::from_secs(seconds), status).is_some()
        };
        assert!(!timed_out(9, None));
        assert!(!timed_out(9, Some(&status(Phase::Loading, 1))));
        assert!(!timed_out(18, Some(&status(Phase::Loading, 2))));
        assert!(!timed_out(27, Some(&status(Phase::Lost, 0))));
        assert!(timed_out(28, Some(&status(Phase::Loading, 2))));
    }

    #[test]
    fn downloaded_bytes_do_not_hide_loaded_bytes() {
        let mut timeout = ProgressTimeout::new(Duration::from_secs(10));
        let start = timeout.last_progress;
        let mut timed_out = |seconds: u64, status: &ClusterStatus| {
            timeout.check_at(start + Duration::from_secs(seconds), Some(status)).is_some()
        };
        assert!(!timed_out(0, &status(Phase::Loading, 0)));
        assert!(!timed_out(9, &status(Phase::Downloading, 900)));
        assert!(!timed_out(18, &status(Phase::Downloading, 1000)));
        assert!(!timed_out(27, &status(Phase::Loading, 10)), "fewer bytes than were downloaded, and still progress");
        assert!(timed_out(37, &status(Phase::Loading, 10)));
    }

    #[test]
    fn the_message_names_the_pending_rank() {
        let start = Instant::now();
        let mut timeout = ProgressTimeout::new(Duration::from_secs(1));
        let loading = status(Phase::Loading, 1);
        assert_eq!(timeout.check_at(start, Some(&loading)), None);
        let message = timeout.check_at(start + Duration::from_secs(3), Some(&loading)).unwrap();
        assert!(message.contains("rank 0: Loading") && message.contains("--ready-timeout"), "{message}");
        let message = ProgressTimeout::new(Duration::ZERO).check(None).unwrap();
        assert!(message.contains("head cannot be reached"), "{message}");
    }
}
