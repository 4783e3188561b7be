//! What a user in the head's terminal sees until the group serves.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::anyhow;
use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at};

/// How often the line changes: where it is written over the last one, and where each takes a line of its own.
const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(5);

/// Times that one of the head's own ranks may be lost before the group has served. Whoever waits in the foreground is told
/// then what is wrong; a head that serves others goes on trying.
const TRIES: u64 = 3;

/// Back to the line's begin, and nothing after it.
const WRITE_OVER: &str = "\r\x1b[K";

/// Waits until the group takes requests, and tells on standard error what it waits for.
///
/// # Errors
/// The head is gone, or its own ranks cannot begin, whatever they try.
pub async fn until_served(mut status: watch::Receiver<ClusterStatus>, terminal: bool) -> anyhow::Result<()> {
    let period = if terminal { ON_TERMINAL } else { ELSEWHERE };
    let mut tick = interval_at(Instant::now() + period, period);
    let mut told = String::new();
    let end = loop {
        if let Some(end) = end(&status.borrow_and_update()) {
            break end;
        }
        tokio::select! {
            changed = status.changed() => changed.map_err(|_| anyhow!("the head stopped before the group served"))?,
            _ = tick.tick() => {
                let line = pending(&status.borrow());
                if line != told {
                    let (before, after) = if terminal { (WRITE_OVER, "") } else { ("", "\n") };
                    write!(io::stderr(), "{before}{line}{after}").ok();
                    told = line;
                }
            }
        }
    };
    if terminal && !told.is_empty() {
        write!(io::stderr(), "{WRITE_OVER}").ok();
    }
    end
}

/// How the wait ends, if it does.
fn end(status: &ClusterStatus) -> Option<anyhow::Result<()>> {
    if status.accepting {
        return Some(Ok(()));
    }
    let lost = |rank: &&RankStatus| rank.node == 0 && rank.restarts >= TRIES && rank.phase() == Phase::Lost;
    let RankStatus { rank, restarts, message, .. } = status.ranks.iter().find(lost)?;
    Some(Err(anyhow!("rank {rank} ended {restarts} times before it served: {message}")))
}

/// The first rank that is not there yet, and how many more.
fn pending(status: &ClusterStatus) -> String {
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
    async fn a_group_that_serves_is_noticed() {
        let (sender, status) = watch::channel(ClusterStatus::default());
        let waiting = tokio::spawn(until_served(status.clone(), false));
        tokio::task::yield_now().await;
        sender.send_modify(|status| status.accepting = true);
        waiting.await.unwrap().unwrap();
        until_served(status.clone(), true).await.unwrap();
        sender.send_modify(|status| status.accepting = false);
        drop(sender);
        assert!(until_served(status, false).await.is_err());
    }

    #[tokio::test]
    async fn ranks_that_cannot_begin_end_the_wait() {
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
        // A worker may come and go; the head's own ranks are its own doing.
        for status in [rank(0, 2, Phase::Lost), rank(1, 9, Phase::Lost), rank(0, 3, Phase::Loading)] {
            assert!(end(&status).is_none(), "{status:?}");
        }
        let (_sender, status) = watch::channel(rank(0, 3, Phase::Lost));
        let error = until_served(status, false).await.unwrap_err().to_string();
        assert_eq!(error, "rank 0 ended 3 times before it served: no memory");
    }

    #[test]
    fn what_it_waits_for() {
        let of = |pending_ranks: &[&str]| {
            let pending = pending_ranks.iter().map(ToString::to_string).collect();
            super::pending(&ClusterStatus { pending, ..Default::default() })
        };
        assert_eq!(of(&["rank 1 (node 1) Loading 41%"]), "waiting for rank 1 (node 1) Loading 41%");
        assert_eq!(of(&["rank 1", "rank 2", "rank 3"]), "waiting for rank 1 (and 2 more)");
    }
}
