//! Progress line in the head's terminal until the group serves.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::anyhow;
use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at};

/// Time between two updates on a terminal, where each update overwrites the last.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two updates elsewhere, where each update is a line of its own.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Number of times that one of the head's own ranks may be lost before the group serves. After that, the foreground task
/// fails with the reason. A head without a foreground task goes on trying.
const MAX_RESTARTS: u64 = 3;

/// Control sequence that returns to the beginning of the line and clears it.
const CLEAR_LINE: &str = "\r\x1b[K";

/// Waits until the group takes requests. Shows on standard error which ranks it waits for.
///
/// # Errors
/// Fails if the head stops, or if the head's own ranks cannot start.
pub(crate) async fn wait_until_served(
    mut status: watch::Receiver<ClusterStatus>,
    terminal: bool,
) -> anyhow::Result<()> {
    let period = if terminal { TERMINAL_INTERVAL } else { LINE_INTERVAL };
    let mut tick = interval_at(Instant::now() + period, period);
    let mut shown = String::new();
    let outcome = loop {
        if let Some(outcome) = wait_outcome(&status.borrow_and_update()) {
            break outcome;
        }
        tokio::select! {
            changed = status.changed() => changed.map_err(|_| anyhow!("the head stopped before the group served"))?,
            _ = tick.tick() => {
                let line = pending_line(&status.borrow());
                if line != shown {
                    let (before, after) = if terminal { (CLEAR_LINE, "") } else { ("", "\n") };
                    write!(io::stderr(), "{before}{line}{after}").ok();
                    shown = line;
                }
            }
        }
    };
    if terminal && !shown.is_empty() {
        write!(io::stderr(), "{CLEAR_LINE}").ok();
    }
    outcome
}

/// Returns the outcome of the wait, or `None` if the wait goes on.
fn wait_outcome(status: &ClusterStatus) -> Option<anyhow::Result<()>> {
    if status.accepting {
        return Some(Ok(()));
    }
    let has_failed =
        |rank: &&RankStatus| rank.node == 0 && rank.restarts >= MAX_RESTARTS && rank.phase() == Phase::Lost;
    let RankStatus { rank, restarts, message, .. } = status.ranks.iter().find(has_failed)?;
    Some(Err(anyhow!("rank {rank} ended {restarts} times before it served: {message}")))
}

/// Returns a line that names the first pending rank and the number of the others.
fn pending_line(status: &ClusterStatus) -> String {
    match status.pending.as_slice() {
        [] => "waiting for the group".into(),
        [one] => format!("waiting for {one}"),
        [first, rest @ ..] => format!("waiting for {first} (and {} more)", rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_wait_ends_once_the_group_serves() {
        let (sender, status) = watch::channel(ClusterStatus::default());
        let waiting = tokio::spawn(wait_until_served(status.clone(), false));
        tokio::task::yield_now().await;
        sender.send_modify(|status| status.accepting = true);
        waiting.await.unwrap().unwrap();
        wait_until_served(status.clone(), true).await.unwrap();
        sender.send_modify(|status| status.accepting = false);
        drop(sender);
        assert!(wait_until_served(status, false).await.is_err());
    }

    #[tokio::test]
    async fn the_wait_fails_if_the_heads_own_ranks_cannot_start() {
        let rank = |node, restarts, phase: Phase| ClusterStatus {
            ranks: vec![RankStatus {
                node,
                restarts,
                phase: phase.into(),
                message: "no memory".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        // A lost worker does not end the wait, because the operator or the user can start it again.
        for status in [rank(0, 2, Phase::Lost), rank(1, 9, Phase::Lost), rank(0, 3, Phase::Loading)] {
            assert!(wait_outcome(&status).is_none(), "{status:?}");
        }
        let (_sender, status) = watch::channel(rank(0, 3, Phase::Lost));
        let error = wait_until_served(status, false).await.unwrap_err().to_string();
        assert_eq!(error, "rank 0 ended 3 times before it served: no memory");
    }

    #[test]
    fn the_line_names_the_pending_ranks() {
        let line = |pending_ranks: &[&str]| {
            let pending = pending_ranks.iter().map(ToString::to_string).collect();
            pending_line(&ClusterStatus { pending, ..Default::default() })
        };
        assert_eq!(line(&["rank 1 (node 1) Loading 41%"]), "waiting for rank 1 (node 1) Loading 41%");
        assert_eq!(line(&["rank 1", "rank 2", "rank 3"]), "waiting for rank 1 (and 2 more)");
    }
}
