//! What heads tell of their groups: a watch on the control port of each head whose cluster is not steady, and nothing
//! for the others, so that a thousand clusters cost no thousand channels.
//!
//! Invariant: one connection a group at most; it ends when its head's pod changes or the cluster is steady. A report is
//! kept with the pod that it came from, and is void with that pod.

mod dial;

pub use dial::{Credentials, DialError};

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use kube::runtime::reflector::ObjectRef;
use lockstep_proto::backoff::Backoff;
use lockstep_proto::errors::with_causes;
use lockstep_proto::node::DrainRequest;
use lockstep_proto::node::operations_client::OperationsClient;
use lockstep_proto::v1::cluster_client::ClusterClient;
use lockstep_proto::v1::{ClusterStatus, WatchRequest};
use tokio::task::AbortHandle;
use tonic::transport::Channel;

use crate::resource::InferenceCluster;

/// Pauses before a head is dialled again.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
/// Longest wait for an answer to Drain.
const ANSWER: Duration = Duration::from_secs(5);
/// Changes that wait to be looked at; more are of no use, because a look sees the newest state of all.
const CHANGES: usize = 1024;

/// One group of one cluster.
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

/// Where a group's head is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadPod {
    pub uid: String,
    pub address: IpAddr,
}

/// What a head said last.
#[derive(Debug, Clone)]
pub struct Report {
    pub status: ClusterStatus,
    /// The connection that it came by is up.
    pub live: bool,
    /// When bytes began to be loaded, and how many had been: for an estimate of what is left.
    pub loading_since: Option<(Instant, u64)>,
}

#[derive(Default)]
struct Entry {
    pod: Option<HeadPod>,
    report: Option<Report>,
    channel: Option<Channel>,
    task: Option<AbortHandle>,
    trouble: Option<String>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// All heads that are known.
#[derive(Clone)]
pub struct Heads {
    entries: Arc<Mutex<HashMap<GroupKey, Entry>>>,
    changed: mpsc::Sender<ObjectRef<InferenceCluster>>,
}

impl Heads {
    /// With the stream of clusters of which a head told something new.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<ObjectRef<InferenceCluster>>) {
        let (changed, changes) = mpsc::channel(CHANGES);
        (Self { entries: Arc::default(), changed }, changes)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<GroupKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the head in the pod `uid` said last.
    #[must_use]
    pub fn report(&self, key: &GroupKey, uid: &str) -> Option<Report> {
        let entries = self.entries();
        let entry = entries.get(key)?;
        entry.pod.as_ref().filter(|pod| pod.uid == uid)?;
        entry.report.clone()
    }

    /// Why the head cannot be reached, where it is dialled in vain.
    #[must_use]
    pub fn trouble(&self, key: &GroupKey) -> Option<String> {
        self.entries().get(key)?.trouble.clone()
    }

    /// Follows the head in `pod`, unless it is followed already.
    pub fn follow(&self, key: &GroupKey, pod: &HeadPod, credentials: &Credentials) {
        let mut entries = self.entries();
        let entry = entries.entry(key.clone()).or_default();
        let same = entry.pod.as_ref() == Some(pod);
        if same && entry.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let report = entry.report.take().filter(|_| same);
        let heads = self.clone();
        let task = tokio::spawn(follow(heads, key.clone(), pod.clone(), credentials.clone()));
        // The old entry's task ends with it.
        let task = Some(task.abort_handle());
        *entry = Entry { pod: Some(pod.clone()), report, channel: None, task, trouble: None };
    }

    /// Ends the connection, and keeps what was said.
    pub fn leave(&self, key: &GroupKey) {
        if let Some(entry) = self.entries().get_mut(key) {
            if let Some(task) = entry.task.take() {
                task.abort();
            }
            entry.channel = None;
            entry.trouble = None;
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

    /// Connections that are up.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.entries().values().filter(|entry| entry.channel.is_some()).count()
    }

    /// Tells the head to take no more requests, where it can be reached; its reports show how many it still has.
    pub async fn drain(&self, key: &GroupKey, reason: &str) {
        let Some(channel) = self.entries().get(key).and_then(|entry| entry.channel.clone()) else { return };
        let request = DrainRequest { reason: reason.to_owned() };
        let answer = tokio::time::timeout(ANSWER, OperationsClient::new(channel).drain(request)).await;
        if let Ok(Err(status)) = answer {
            tracing::warn!(group = ?key, %status, "the head refused to drain");
        }
    }

    fn tell(&self, key: &GroupKey, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries().get_mut(key) {
            change(entry);
        }
        // Full: a look is due anyway.
        let _ = self.changed.clone().try_send(ObjectRef::new(&key.cluster).within(&key.namespace));
    }
}

/// Watches one head until aborted.
async fn follow(heads: Heads, key: GroupKey, pod: HeadPod, credentials: Credentials) {
    let mut pauses = PAUSES;
    loop {
        let trouble = match credentials.dial(pod.address).await {
            Ok(channel) => {
                let told = watch(&heads, &key, channel).await;
                if told.is_ok() {
                    pauses.reset();
                }
                told.err().unwrap_or_else(|| "the head ended the connection".into())
            }
            Err(error) => with_causes(&error),
        };
        heads.tell(&key, |entry| {
            entry.channel = None;
            entry.trouble = Some(trouble);
            if let Some(report) = &mut entry.report {
                report.live = false;
            }
        });
        tokio::time::sleep(pauses.next_pause()).await;
    }
}

async fn watch(heads: &Heads, key: &GroupKey, channel: Channel) -> Result<(), String> {
    let watching = ClusterClient::new(channel.clone()).watch(WatchRequest {}).await;
    let mut changes = watching.map_err(|status| status.message().to_owned())?.into_inner();
    let mut last: Option<ClusterStatus> = None;
    while let Some(status) = changes.message().await.map_err(|status| status.message().to_owned())? {
        // What moves all the time is no news: bytes in steps of 5%, no counters.
        let news = last.as_ref().is_none_or(|last| differs(last, &status));
        let loaded = bytes_loaded(&status);
        let loading = status.ranks.iter().any(|rank| rank.bytes_loaded < rank.bytes_total);
        last = Some(status.clone());
        let change = |entry: &mut Entry| {
            let before = entry.report.as_ref().and_then(|report| report.loading_since);
            // Fewer than before: what was fetched is now read, which has its own pace.
            let before = before.filter(|(_, before)| loaded >= *before);
            let loading_since = loading.then(|| before.unwrap_or((Instant::now(), loaded)));
            entry.channel = Some(channel.clone());
            entry.trouble = None;
            entry.report = Some(Report { status, live: true, loading_since });
        };
        if news {
            heads.tell(key, change);
        } else if let Some(entry) = heads.entries().get_mut(key) {
            change(entry);
        }
    }
    Ok(())
}

/// Bytes that all ranks have loaded, by what the head says.
#[must_use]
pub fn bytes_loaded(status: &ClusterStatus) -> u64 {
    status.ranks.iter().fold(0, |sum, rank| sum.saturating_add(rank.bytes_loaded))
}

/// Whether there is anything in `now` that a status should say.
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
