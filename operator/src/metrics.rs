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

    /// Returns namespace and name of each cluster with a status.
    #[must_use]
    pub fn list_clusters(&self) -> Vec<(String, String)> {
        lock(&self.conditions).keys().cloned().collect()
    }

    /// Forgets a cluster that is gone.
    pub fn forget_cluster(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        lock(&self.waiting).remove(&key);
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
