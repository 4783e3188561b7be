//! The watches, and the stores that they fill.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Debug;
use std::hash::{Hash, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Resource, ResourceExt as _};
use lockstep_proto::backoff::Backoff;

use super::changes::filter_changes;
use super::lists::{Lists, list_after_loss};
use super::source::{Events, Source};
use super::trim;
use crate::objects::kinds::owned_kinds;
use crate::resource::InferenceCluster;

/// Pauses after failures of one watch.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));

/// Stores of the watched objects, as they are now.
#[derive(Clone)]
pub struct Observed {
    pub clusters: Store<InferenceCluster>,
    pub pods: Store<Pod>,
    pub sets: Store<StatefulSet>,
    /// Nodes, or `None` if the operator may not read them.
    pub nodes: Option<Store<Node>>,
    owned: Vec<(ApiResource, Store<DynamicObject>)>,
    /// Number of stores that may lack objects now. While there is one, no store proves that an object does not exist.
    pub lists: Lists,
}

impl Observed {
    /// Returns the trace of an owned object.
    #[must_use]
    pub fn trace(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<DynamicObject>> {
        let (resource, store) = self.owned.iter().find(|(resource, _)| resource.kind == kind)?;
        store.get(&ObjectRef::new_with(name, resource.clone()).within(namespace))
    }

    /// Returns true if objects of `kind` are watched. Only some Kubernetes clusters have every kind.
    #[must_use]
    pub fn has_kind(&self, kind: &str) -> bool {
        self.owned.iter().any(|(resource, _)| resource.kind == kind)
    }

    /// Returns a pod, by name.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods.get(&ObjectRef::new(name).within(namespace))
    }

    /// Returns a StatefulSet, by name.
    #[must_use]
    pub fn stateful_set(&self, namespace: &str, name: &str) -> Option<Arc<StatefulSet>> {
        self.sets.get(&ObjectRef::new(name).within(namespace))
    }

    /// Returns a Kubernetes node, by name, if the operator watches Kubernetes nodes.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.as_ref()?.get(&ObjectRef::new(name))
    }

    /// Returns true if the Kubernetes node `node` is ready. An unknown Kubernetes node counts as ready, and so does
    /// each one if the operator does not watch them.
    #[must_use]
    pub fn is_node_ready(&self, node: &str) -> bool {
        let Some(nodes) = &self.nodes else { return true };
        nodes.get(&ObjectRef::new(node)).is_none_or(|node| trim::is_ready(&node))
    }
}

/// Streams that keep the stores filled and return the changed objects. Each must be polled.
pub struct Watches {
    pub clusters: Changes<InferenceCluster>,
    pub pods: Changes<Pod>,
    pub sets: Changes<StatefulSet>,
    pub nodes: Option<Changes<Node>>,
    pub owned: Vec<(ApiResource, Changes<DynamicObject>)>,
}

/// Objects that have changed.
type Changes<K> = BoxStream<'static, Result<K, watcher::Error>>;

impl Watches {
    /// Makes the watches with the events of `source`, with those of Kubernetes nodes and of PodMonitors if `nodes` and
    /// `pod_monitors` are set.
    #[must_use]
    pub fn new(source: &Arc<dyn Source>, nodes: bool, pod_monitors: bool) -> (Self, Observed) {
        let lists = Lists::default();
        let (clusters_store, writer) = reflector::store();
        let clusters = watch(&lists, source, |source| source.clusters(), writer, trim::trim_cluster);
        let (pods_store, writer) = reflector::store();
        let pods = watch(&lists, source, |source| source.pods(), writer, trim::trim_pod);
        let (sets_store, writer) = reflector::store();
        let sets = watch(&lists, source, |source| source.sets(), writer, trim::trim_stateful_set);
        let (nodes_store, writer) = reflector::store();
        let node_watch = nodes.then(|| watch(&lists, source, |source| source.nodes(), writer, trim::trim_node));
        let mut owned = Vec::new();
        let mut owned_stores = Vec::new();
        for kind in owned_kinds(pod_monitors) {
            let writer = Writer::<DynamicObject>::new(kind.clone());
            owned_stores.push((kind.clone(), writer.as_reader()));
            let of_kind = kind.clone();
            let events = watch(&lists, source, move |source| source.owned(&of_kind), writer, trim::trim_to_trace);
            owned.push((kind, filter_changes(events, hash_object).boxed()));
        }
        let observed = Observed {
            clusters: clusters_store,
            pods: pods_store,
            sets: sets_store,
            nodes: nodes.then_some(nodes_store),
            owned: owned_stores,
            lists,
        };
        let watches = Self {
            clusters: filter_changes(clusters, hash_cluster).boxed(),
            pods: pods.touched_objects().boxed(),
            sets: filter_changes(sets, hash_object).boxed(),
            nodes: node_watch.map(|nodes| filter_changes(nodes, |node| u64::from(trim::is_ready(node))).boxed()),
            owned,
        };
        (watches, observed)
    }
}

/// Pauses as `kube` takes them. They have no random part: one process has a dozen watches, and each has pauses of its own.
pub struct Pauses(pub Backoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.next_pause())
    }
}

impl kube::runtime::utils::Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// Watches objects by `begin`: trims each object, keeps it in the store of `writer`, and tells `lists` if the store may
/// lack objects.
fn watch<K>(
    lists: &Lists,
    source: &Arc<dyn Source>,
    begin: impl Fn(&dyn Source) -> Events<K> + Send + 'static,
    writer: Writer<K>,
    trim: impl FnMut(&mut K) + Send + 'static,
) -> Events<K>
where
    K: Resource + Clone + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let source = source.clone();
    let events = list_after_loss(move || begin(source.as_ref()));
    lists.follow(events.backoff(Pauses(PAUSES)).modify(trim).reflect(writer)).boxed()
}

/// Returns a hash of every part of a cluster whose change calls for a reconciliation: all but its status.
fn hash_cluster(cluster: &InferenceCluster) -> u64 {
    let mut hasher = DefaultHasher::new();
    let meta = &cluster.metadata;
    (&meta.uid, meta.generation, &meta.labels, &meta.annotations, meta.deletion_timestamp.is_some()).hash(&mut hasher);
    hasher.finish()
}

/// Returns a hash of the content of an owned object, of its owners, and of the fact that it is being deleted.
fn hash_object<K: Resource>(object: &K) -> u64 {
    let mut hasher = DefaultHasher::new();
    let meta = object.meta();
    (&meta.uid, object.annotations(), meta.deletion_timestamp.is_some()).hash(&mut hasher);
    meta.owner_references.iter().flatten().for_each(|owner| owner.uid.hash(&mut hasher));
    hasher.finish()
}
