//! Witness: asks a head for its status all the time, and notes when it changes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use lockstep_proto::v1::ClusterStatus;
use lockstep_tests::client::Client;
use tokio::task::JoinHandle;

/// Pause between two questions. It bounds the error of the times that are measured.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest time for an answer. A stopped or dead head gives none.
const TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Seen {
    /// Time of the question, and its answer.
    latest: Option<(Instant, ClusterStatus)>,
    /// Times at which readiness or epoch had changed, with the new values.
    changes: Vec<(Instant, bool, u64)>,
}

/// Running witness. It stops when dropped.
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Witness {
    pub fn start(endpoint: String) -> Result<Self> {
        let client = Client::lazy(endpoint)?;
        let seen = Arc::<Mutex<Seen>>::default();
        Ok(Self { task: tokio::spawn(watch(client, seen.clone())), seen })
    }

    /// Returns the status that was asked for last.
    pub fn latest(&self) -> Option<ClusterStatus> {
        self.seen.lock().expect("what was seen").latest.as_ref().map(|(_, status)| status.clone())
    }

    /// Returns true if the head has been asked after `time`, and was ready.
    pub fn is_ready_after(&self, time: Instant) -> bool {
        let seen = self.seen.lock().expect("what was seen");
        seen.latest.as_ref().is_some_and(|(asked, status)| *asked > time && status.ready)
    }

    /// Returns when the head has noticed a fault that began at `began`: readiness was gone or the epoch was another.
    pub fn noticed(&self, began: Instant) -> Option<Instant> {
        let seen = self.seen.lock().expect("what was seen");
        let before = seen.changes.iter().rev().find(|(at, ..)| *at <= began).map(|(_, _, epoch)| *epoch);
        let later = seen.changes.iter().filter(|(at, ..)| *at > began);
        later.into_iter().find(|(_, ready, epoch)| !ready || Some(*epoch) != before).map(|(at, ..)| *at)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(mut client: Client, seen: Arc<Mutex<Seen>>) {
    loop {
        let asked = Instant::now();
        if let Ok(Ok(status)) = tokio::time::timeout(TIMEOUT, client.status()).await {
            let mut seen = seen.lock().expect("what was seen");
            let now = (status.ready, status.epoch);
            if seen.changes.last().is_none_or(|(_, ready, epoch)| (*ready, *epoch) != now) {
                seen.changes.push((Instant::now(), now.0, now.1));
            }
            seen.latest = Some((asked, status));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
