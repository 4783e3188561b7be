//! Reports of heads about their groups. The operator watches the control port of each head whose cluster is not steady. It
//! keeps no connection to the others, so that a thousand clusters do not cost a thousand channels.
//!
//! Invariants: a group has one connection at most, which ends when the head's pod changes or the cluster is steady. A report
//! belongs to the pod that it came from, and is void once that pod is gone.

mod contacts;
mod dial;
mod network;

pub use contacts::{ask_nodes, does_machine_answer, does_pod_answer};
pub use dial::{Credentials, DialError};
pub use network::{Control, Link, Network, Reports, Tcp};

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt as _;
use futures::channel::mpsc;
use kube::runtime::reflector::ObjectRef;
use lockstep_proto::backoff::Backoff;
use lockstep_proto::v1::ClusterStatus;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::resource::InferenceCluster;

/// Pauses before a head is dialled again.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
/// Maximum time for an answer to Drain.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum changes that wait for a reconciliation. More are of no use: a reconciliation sees the newest state of all.
const MAX_CHANGES: usize = 1024;

/// Key of one group of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupKey {
    pub namespace: String,
    pub cluster: String,
    pub group: u32,
}

impl GroupKey {
    #[must_use]
    pub fn new(namespace: &str, cluster: &str, group: u32) -> Self {
        Self { namespace: namespace.to_owned(), cluster: cluster.to_owned(), group }
    }
}

/// Pod in which a group's head runs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadPod {
    pub uid: String,
    pub address: IpAddr,
}

/// Last report of a head.
#[derive(Debug, Clone)]
pub struct Report {
    pub status: ClusterStatus,
    /// True while the connection that brought the report is up.
    pub live: bool,
    /// Time at which ranks began to load, and the bytes that they had loaded then, for an estimate of the remaining time.
    pub loading_since: Option<(Instant, u64)>,
}

#[derive(Default)]
struct Entry {
    pod: Option<HeadPod>,
    report: Option<Report>,
    link: Option<Link>,
    task: Option<AbortHandle>,
    /// Failure of the last connection.
    failure: Option<String>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// All heads that the operator knows.
#[derive(Clone)]
pub struct Heads {
    network: Arc<dyn Network>,
    entries: Arc<Mutex<HashMap<GroupKey, Entry>>>,
    changed: mpsc::Sender<ObjectRef<InferenceCluster>>,
}

impl Heads {
    /// Makes an empty set of heads that `network` reaches, and the stream of clusters whose heads report something new.
    #[must_use]
    pub fn new(network: Arc<dyn Network>) -> (Self, mpsc::Receiver<ObjectRef<InferenceCluster>>) {
        let (changed, changes) = mpsc::channel(MAX_CHANGES);
        (Self { network, entries: Arc::default(), changed }, changes)
    }

    /// Returns the network by which heads, nodes and machines are reached.
    #[must_use]
    pub fn network(&self) -> &dyn Network {
        self.network.as_ref()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<GroupKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the last report of the head in the pod `uid`.
    #[must_use]
    pub fn report(&self, key: &GroupKey, uid: &str) -> Option<Report> {
        let entries = self.entries();
        let entry = entries.get(key)?;
        entry.pod.as_ref().filter(|pod| pod.uid == uid)?;
        entry.report.clone()
    }

    /// Returns the failure of the last connection to the head, or `None` if the connection is up or was not tried.
    #[must_use]
    pub fn failure(&self, key: &GroupKey) -> Option<String> {
        self.entries().get(key)?.failure.clone()
    }

    /// Watches the head in `pod`, unless it is watched already.
    pub fn follow(&self, key: &GroupKey, pod: &HeadPod, credentials: &Credentials) {
        let mut entries = self.entries();
        let entry = entries.entry(key.clone()).or_default();
        let same = entry.pod.as_ref() == Some(pod);
        if same && entry.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let report = entry.report.take().filter(|_| same);
        let heads = self.clone();
        let task = tokio::spawn(keep_watching(heads, key.clone(), pod.clone(), credentials.clone()));
        // The old entry's task ends with it.
        let task = Some(task.abort_handle());
        *entry = Entry { pod: Some(pod.clone()), report, link: None, task, failure: None };
    }

    /// Ends the connection and keeps the last report.
    pub fn disconnect(&self, key: &GroupKey) {
        if let Some(entry) = self.entries().get_mut(key) {
            if let Some(task) = entry.task.take() {
                task.abort();
            }
            entry.link = None;
            entry.failure = None;
            if let Some(report) = &mut entry.report {
                report.live = false;
            }
        }
    }

    /// Forgets a group that is gone.
    pub fn forget(&self, key: &GroupKey) {
        self.entries().remove(key);
    }

    /// Forgets every group of a cluster that is gone.
    pub fn forget_cluster(&self, namespace: &str, cluster: &str) {
        self.entries().retain(|key, _| key.namespace != namespace || key.cluster != cluster);
    }

    /// Returns the number of connections that are up.
    #[must_use]
    pub fn count_connections(&self) -> usize {
        self.entries().values().filter(|entry| entry.link.is_some()).count()
    }

    /// Tells the head to take no more requests, if the head is connected. Its reports show how many requests remain.
    pub async fn drain(&self, key: &GroupKey, reason: &str) {
        let Some(link) = self.entries().get(key).and_then(|entry| entry.link.clone()) else { return };
        if let Ok(Err(error)) = tokio::time::timeout(DRAIN_TIMEOUT, link.drain(reason.to_owned())).await {
            tracing::warn!(group = ?key, error, "the head refused to drain");
        }
    }

    /// Changes the entry of a group and announces the change.
    fn update(&self, key: &GroupKey, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries().get_mut(key) {
            change(entry);
        }
        // If the channel is full, a reconciliation is due anyway.
        let _ = self.changed.clone().try_send(ObjectRef::new(&key.cluster).within(&key.namespace));
    }
}

/// Watches one head, over one connection after another, until aborted.
async fn keep_watching(heads: Heads, key: GroupKey, pod: HeadPod, credentials: Credentials) {
    let mut pauses = PAUSES;
    loop {
        let failure = match heads.network.dial(pod.address, &credentials).await {
            Ok(link) => {
                let watched = watch_until_closed(&heads, &key, link).await;
                if watched.is_ok() {
                    pauses.reset();
                }
                watched.err().unwrap_or_else(|| "the head ended the connection".into())
            }
            Err(error) => error,
        };
        heads.update(&key, |entry| {
            entry.link = None;
            entry.failure = Some(failure);
            if let Some(report) = &mut entry.report {
                report.live = false;
            }
        });
        tokio::time::sleep(pauses.next_pause()).await;
    }
}

/// Records the reports that come over `link` until the head closes it.
async fn watch_until_closed(heads: &Heads, key: &GroupKey, link: Link) -> Result<(), String> {
    let mut reports = link.watch().await?;
    let mut last: Option<ClusterStatus> = None;
    while let Some(status) = reports.try_next().await? {
        // Counters change all the time, so they are no news. Loaded bytes are news in steps of 5%.
        let is_news = last.as_ref().is_none_or(|last| differs(last, &status));
        let loaded = sum_loaded_bytes(&status);
        let loading = status.ranks.iter().any(|rank| rank.bytes_loaded < rank.bytes_total);
        last = Some(status.clone());
        let change = |entry: &mut Entry| {
            let before = entry.report.as_ref().and_then(|report| report.loading_since);
            // With fewer bytes than before, the download has ended and ranks read the files, at another pace.
            let before = before.filter(|(_, before)| loaded >= *before);
            let loading_since = loading.then(|| before.unwrap_or((Instant::now(), loaded)));
            entry.link = Some(link.clone());
            entry.failure = None;
            entry.report = Some(Report { status, live: true, loading_since });
        };
        if is_news {
            heads.update(key, change);
        } else if let Some(entry) = heads.entries().get_mut(key) {
            change(entry);
        }
    }
    Ok(())
}

/// Returns the bytes that all ranks have loaded, as the head reports them.
#[must_use]
pub fn sum_loaded_bytes(status: &ClusterStatus) -> u64 {
    status.ranks.iter().fold(0, |sum, rank| sum.saturating_add(rank.bytes_loaded))
}

/// Returns true if `now` differs from `before` in a field that the cluster's status shows.
fn differs(before: &ClusterStatus, now: &ClusterStatus) -> bool {
    let essence = |status: &ClusterStatus| {
        let ranks: Vec<_> = status
            .ranks
            .iter()
            .map(|rank| {
                let share = rank.bytes_loaded.saturating_mul(20).checked_div(rank.bytes_total);
                (rank.phase, share, rank.message.clone(), rank.incarnation, rank.host.clone())
            })
            .collect();
        let idle = (status.running, status.waiting) == (0, 0);
        (ranks, status.ready, status.accepting, status.draining.then_some(idle), status.epoch, status.recoveries)
    };
    essence(before) != essence(now)
}
