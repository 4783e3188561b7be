//! What a user in the head's terminal sees until the group serves.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use lockstep_proto::v1::ClusterStatus;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at};

/// How often the line changes: where it is written over the last one, and where each takes a line of its own.
const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(5);

/// Back to the line's begin, and nothing after it.
const WRITE_OVER: &str = "\r\x1b[K";

/// Waits until the group takes requests, and tells on standard error what it waits for.
///
/// # Errors
/// The head is gone.
pub async fn until_served(mut status: watch::Receiver<ClusterStatus>, terminal: bool) -> anyhow::Result<()> {
    let period = if terminal { ON_TERMINAL } else { ELSEWHERE };
    let mut tick = interval_at(Instant::now() + period, period);
    let now = status.clone();
    let mut told = String::new();
    loop {
        tokio::select! {
            served = status.wait_for(|status| status.accepting) => {
                served.context("the head ended")?;
                break;
            }
            _ = tick.tick() => {
                let line = pending(&now.borrow());
                if line != told {
                    let (before, after) = if terminal { (WRITE_OVER, "") } else { ("", "\n") };
                    write!(io::stderr(), "{before}{line}{after}").ok();
                    told = line;
                }
            }
        }
    }
    if terminal && !told.is_empty() {
        write!(io::stderr(), "{WRITE_OVER}").ok();
    }
    Ok(())
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
