//! The operator's Prometheus metrics.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::observe::Lists;
use crate::resource::{InferenceCluster, InferenceClusterStatus};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConditionLabels {
    condition: String,
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verb {
    verb: &'static str,
}

/// Labels of a group's series. Prometheus gives the operator's own namespace to `namespace`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabels {
    cluster_namespace: String,
    cluster: String,
    group: u32,
}

/// State of a group as the operator last saw it. A head that is gone has no series of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSample {
    pub group: u32,
    pub epoch: i64,
    pub recoveries: i64,
    pub serves: bool,
    /// True if the head answers the operator, or if the operator has no reason to ask: its pod is ready.
    pub head_answers: bool,
}

/// Series of groups.
#[derive(Default)]
struct GroupSeries {
    epoch: Family<GroupLabels, Gauge>,
    recoveries: Family<GroupLabels, Gauge>,
    serves: Family<GroupLabels, Gauge>,
    head_answers: Family<GroupLabels, Gauge>,
    /// Groups with series, by cluster.
    known: Mutex<HashMap<ClusterKey, Vec<u32>>>,
}

impl GroupSeries {
    fn register(&self, registry: &mut Registry) {
        registry.register("group_epoch", "Epoch of a group, as last seen", self.epoch.clone());
        let help = "Recoveries of a group since the start of its head, as last seen";
        registry.register("group_recoveries", help, self.recoveries.clone());
        registry.register("group_serves", "1 while every rank of a group serves", self.serves.clone());
        let help = "1 while the head of a group answers, or its pod is ready and nothing speaks against it";
        registry.register("group_head_answers", help, self.head_answers.clone());
    }

    /// Replaces the series of a cluster. Groups that are not among `samples` are gone.
    fn record(&self, key: ClusterKey, samples: &[GroupSample]) {
        let labels = |group| GroupLabels { cluster_namespace: key.0.clone(), cluster: key.1.clone(), group };
        for sample in samples {
            let labels = labels(sample.group);
            self.epoch.get_or_create(&labels).set(sample.epoch);
            self.recoveries.get_or_create(&labels).set(sample.recoveries);
            self.serves.get_or_create(&labels).set(sample.serves.into());
            self.head_answers.get_or_create(&labels).set(sample.head_answers.into());
        }
        let now: Vec<u32> = samples.iter().map(|sample| sample.group).collect();
        let mut known = lock(&self.known);
        let before = known.remove(&key).unwrap_or_default();
        for group in before.into_iter().filter(|group| !now.contains(group)) {
            for family in [&self.epoch, &self.recoveries, &self.serves, &self.head_answers] {
                family.remove(&labels(group));
            }
        }
        if !now.is_empty() {
            known.insert(key, now);
        }
    }
}

/// Namespace and name of a cluster.
type ClusterKey = (String, String);

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<Outcome, Counter>,
    seconds: Histogram,
    queue: Gauge,
    leader: Gauge,
    clusters: Family<ConditionLabels, Gauge>,
    requests: Family<Verb, Counter>,
    connections: Gauge<i64>,
    incomplete: Gauge<i64>,
    groups: GroupSeries,
    /// State of the watches of each scope.
    lists: Mutex<Vec<Lists>>,
    /// Clusters with a change that no reconciliation has seen yet.
    waiting: Mutex<HashSet<ClusterKey>>,
    /// Conditions of each cluster and their statuses, as last seen.
    conditions: Mutex<HashMap<ClusterKey, Vec<(String, String)>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("lockstep_operator");
        let reconciles = Family::<Outcome, Counter>::default();
        let seconds = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let [queue, leader, connections, incomplete]: [Gauge<i64>; 4] = Default::default();
        let clusters = Family::<ConditionLabels, Gauge>::default();
        let requests = Family::<Verb, Counter>::default();
        registry.register("reconciles", "Reconciliations, by result and cause of failure", reconciles.clone());
        registry.register("reconcile_seconds", "Duration of reconciliations", seconds.clone());
        registry.register("queue_depth", "Clusters with something new that was not looked at yet", queue.clone());
        registry.register("leader", "1 where this process holds the lease", leader.clone());
        registry.register("clusters", "InferenceClusters, by condition and its status", clusters.clone());
        registry.register("api_requests", "Requests to the API server beside watches, by verb", requests.clone());
        registry.register("head_connections", "Heads that are listened to", connections.clone());
        let help = "Watches that do not show every object; the operator decides nothing while there is one";
        registry.register("incomplete_watches", help, incomplete.clone());
        let groups = GroupSeries::default();
        groups.register(&mut registry);
        Self {
            registry,
            reconciles,
            seconds,
            queue,
            leader,
            clusters,
            requests,
            connections,
            incomplete,
            groups,
            lists: Mutex::default(),
            waiting: Mutex::default(),
            conditions: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Counts a request of `verb` to the API server.
    pub fn count_request(&self, verb: &'static str) {
        self.requests.get_or_create(&Verb { verb }).inc();
    }

    /// Sets whether this process holds the lease.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Sets the number of connected heads.
    pub fn set_connections(&self, heads: usize) {
        self.connections.set(heads as i64);
    }

    /// Adds watches to those whose state is exported.
    pub fn watch_lists(&self, lists: Lists) {
        lock(&self.lists).push(lists);
    }

    /// Records that an object of `cluster` changed.
    pub fn record_change(&self, cluster: &ObjectRef<InferenceCluster>) {
        let mut waiting = lock(&self.waiting);
        waiting.insert((cluster.namespace.clone().unwrap_or_default(), cluster.name.clone()));
        self.queue.set(waiting.len() as i64);
    }

    /// Records that a reconciliation of a cluster begins.
    pub fn record_begin(&self, namespace: &str, name: &str) {
        let mut waiting = lock(&self.waiting);
        waiting.remove(&(namespace.to_owned(), name.to_owned()));
        self.queue.set(waiting.len() as i64);
    }

    /// Records the end of a reconciliation. `cause` is given if it failed.
    pub fn record_end(&self, took: Duration, cause: Option<&'static str>) {
        let result = if cause.is_some() { "error" } else { "ok" };
        self.reconciles.get_or_create(&Outcome { result, cause: cause.unwrap_or("") }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Records the conditions of a cluster.
    pub fn record_status(&self, namespace: &str, name: &str, status: &InferenceClusterStatus) {
        let now = status.conditions.iter().map(|one| (one.type_.clone(), one.status.clone())).collect();
        let mut all = lock(&self.conditions);
        if all.insert((namespace.to_owned(), name.to_owned()), now).as_ref()
            != all.get(&(namespace.to_owned(), name.to_owned()))
        {
            self.count_conditions(&all);
        }
    }

    /// Records the groups of a cluster.
    pub fn record_groups(&self, namespace: &str, name: &str, samples: &[GroupSample]) {
        self.groups.record((namespace.to_owned(), name.to_owned()), samples);
    }

    /// Returns namespace and name of each cluster with a status.
    #[must_use]
    pub fn list_clusters(&self) -> Vec<(String, String)> {
        lock(&self.conditions).keys().cloned().collect()
    }

    /// Forgets a cluster that is gone.
    pub fn forget_cluster(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        lock(&self.waiting).remove(&key);
        self.groups.record(key.clone(), &[]);
        let mut all = lock(&self.conditions);
        all.remove(&key);
        self.count_conditions(&all);
    }

    fn count_conditions(&self, all: &HashMap<ClusterKey, Vec<(String, String)>>) {
        self.clusters.clear();
        for (condition, status) in all.values().flatten() {
            let labels = ConditionLabels { condition: condition.clone(), status: status.clone() };
            self.clusters.get_or_create(&labels).inc();
        }
    }

    /// Returns all metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Never, for writing to a string does not fail.
    pub fn to_text(&self) -> Result<String, std::fmt::Error> {
        let incomplete: usize = lock(&self.lists).iter().map(Lists::count_incomplete).sum();
        self.incomplete.set(incomplete as i64);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_group_outlive_its_head_and_end_with_the_group() {
        let metrics = Metrics::default();
        let sample = |group, head_answers| GroupSample { group, epoch: 7, recoveries: 2, serves: false, head_answers };
        metrics.record_groups("ml", "llama", &[sample(0, true), sample(1, true)]);
        metrics.record_groups("ml", "llama", &[sample(0, false)]);
        metrics.record_groups("ml", "other", &[sample(0, true)]);
        let text = metrics.to_text().unwrap();
        let series = |name: &str, cluster: &str, group: u32| {
            format!(
                "lockstep_operator_group_{name}{{cluster_namespace=\"ml\",cluster=\"{cluster}\",group=\"{group}\"}}"
            )
        };
        for (name, value) in [("head_answers", 0), ("serves", 0), ("epoch", 7), ("recoveries", 2)] {
            let line = format!("{} {value}\n", series(name, "llama", 0));
            assert!(text.contains(&line), "{line} is not in {text}");
            assert!(!text.contains(&series(name, "llama", 1)), "{text}");
        }
        metrics.forget_cluster("ml", "llama");
        let text = metrics.to_text().unwrap();
        assert!(!text.contains("llama") && text.contains(&series("epoch", "other", 0)), "{text}");
    }
}
