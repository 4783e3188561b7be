//! How long `--prompt` waits for a group to be ready: for as long as it gets nearer, and no longer.

use std::time::{Duration, Instant};

use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};

/// How often the clock is looked at where nothing changes.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// Time without progress. Only what was never reached before counts as progress, so that a rank that loads and dies for
/// ever does not make the wait endless.
pub(super) struct Patience {
    limit: Duration,
    since: Instant,
    /// Highest sum of the ranks' phases, and most bytes fetched and loaded, so far.
    best: (i64, u64, u64),
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), best: (-1, 0, 0) }
    }

    /// What to say where the wait was too long.
    pub(super) fn spent(&mut self, status: Option<&ClusterStatus>) -> Option<String> {
        self.spent_at(Instant::now(), status)
    }

    fn spent_at(&mut self, now: Instant, status: Option<&ClusterStatus>) -> Option<String> {
        if status.is_some_and(|status| self.nearer(status)) {
            self.since = now;
        }
        if now.duration_since(self.since) < self.limit {
            return None;
        }
        let pending = match status {
            None => "the head cannot be reached".to_owned(),
            Some(status) if status.pending.is_empty() => "the group is not ready".to_owned(),
            Some(status) => status.pending.join("; "),
        };
        let seconds = self.limit.as_secs();
        Some(format!("no progress for {seconds} s: {pending}; the lines above say more, --ready-timeout waits longer"))
    }

    fn nearer(&mut self, status: &ClusterStatus) -> bool {
        let phase = |phase: Phase| if phase == Phase::Lost { 0 } else { i64::from(phase as i32) };
        let phases = status.ranks.iter().map(|rank| phase(rank.phase())).sum::<i64>();
        // What was fetched is read afterwards, and counts again.
        let (fetching, loading): (Vec<_>, Vec<_>) =
            status.ranks.iter().partition(|rank| rank.phase() == Phase::Downloading);
        let bytes = |ranks: &[&RankStatus]| ranks.iter().map(|rank| rank.bytes_loaded).fold(0, u64::saturating_add);
        let (fetched, loaded) = (bytes(&fetching), bytes(&loading));
        let nearer = phases > self.best.0 || fetched > self.best.1 || loaded > self.best.2;
        self.best = (self.best.0.max(phases), self.best.1.max(fetched), self.best.2.max(loaded));
        nearer
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};

    use super::Patience;

    fn status(phase: Phase, bytes_loaded: u64) -> ClusterStatus {
        let rank = RankStatus { phase: phase.into(), bytes_loaded, ..Default::default() };
        ClusterStatus { ranks: vec![rank], pending: vec!["rank 0: Loading".into()], ..Default::default() }
    }

    #[test]
    fn only_new_progress_counts() {
        let mut patience = Patience::new(Duration::from_secs(10));
        let start = patience.since;
        let mut spent = |seconds: u64, status: Option<&ClusterStatus>| {
            patience.spent_at(start + Duration::from_secs(seconds), status).is_some()
        };
        assert!(!spent(9, None));
        assert!(!spent(9, Some(&status(Phase::Loading, 1))));
        assert!(!spent(18, Some(&status(Phase::Loading, 2))));
        assert!(!spent(27, Some(&status(Phase::Lost, 0))));
        assert!(spent(28, Some(&status(Phase::Loading, 2))));
    }

    #[test]
    fn what_was_fetched_is_loaded_next() {
        let mut patience = Patience::new(Duration::from_secs(10));
        let start = patience.since;
        let mut spent = |seconds: u64, status: &ClusterStatus| {
            patience.spent_at(start + Duration::from_secs(seconds), Some(status)).is_some()
        };
        assert!(!spent(0, &status(Phase::Loading, 0)));
        assert!(!spent(9, &status(Phase::Downloading, 900)));
        assert!(!spent(18, &status(Phase::Downloading, 1000)));
        assert!(!spent(27, &status(Phase::Loading, 10)), "less than was fetched, and progress all the same");
        assert!(spent(37, &status(Phase::Loading, 10)));
    }

    #[test]
    fn the_words_name_what_is_pending() {
        let start = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(1));
        let loading = status(Phase::Loading, 1);
        assert_eq!(patience.spent_at(start, Some(&loading)), None);
        let told = patience.spent_at(start + Duration::from_secs(3), Some(&loading)).unwrap();
        assert!(told.contains("rank 0: Loading") && told.contains("--ready-timeout"), "{told}");
        let told = Patience::new(Duration::ZERO).spent(None).unwrap();
        assert!(told.contains("head cannot be reached"), "{told}");
    }
}
