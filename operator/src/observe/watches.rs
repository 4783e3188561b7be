//! The watches of one scope (all namespaces, or one), and the stores that they fill.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use futures::stream::{BoxStream, StreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};

use super::changes::changes;
use super::trimmed;
use crate::objects::kinds::owned_kinds;
use crate::objects::{LOCKSTEP, label};
use crate::resource::InferenceCluster;

/// Where clusters are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    All,
    Namespace(String),
}

impl Scope {
    /// The kind `K` within the scope.
    #[must_use]
    pub fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match self {
            Self::All => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }

    fn dynamic(&self, client: &Client, kind: &ApiResource) -> Api<DynamicObject> {
        match self {
            Self::All => Api::all_with(client.clone(), kind),
            Self::Namespace(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
        }
    }
}

/// What is known now.
#[derive(Clone)]
pub struct Observed {
    pub clusters: Store<InferenceCluster>,
    pub pods: Store<Pod>,
    pub sets: Store<StatefulSet>,
    /// `None` where the operator may not read nodes.
    pub nodes: Option<Store<Node>>,
    owned: Vec<(ApiResource, Store<DynamicObject>)>,
}

impl Observed {
    /// The trace of an owned object.
    #[must_use]
    pub fn trace(&self, kind: &str, namespace: &str, name: &str) -> Option<std::sync::Arc<DynamicObject>> {
        let (resource, store) = self.owned.iter().find(|(resource, _)| resource.kind == kind)?;
        store.get(&ObjectRef::new_with(name, resource.clone()).within(namespace))
    }

    /// Whether objects of `kind` are watched: some kinds are there in some Kubernetes only.
    #[must_use]
    pub fn watches(&self, kind: &str) -> bool {
        self.owned.iter().any(|(resource, _)| resource.kind == kind)
    }

    /// A pod, by name.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<Pod>> {
        self.pods.get(&ObjectRef::new(name).within(namespace))
    }

    /// A StatefulSet, by name.
    #[must_use]
    pub fn set(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<StatefulSet>> {
        self.sets.get(&ObjectRef::new(name).within(namespace))
    }

    /// Returns a node, by name, if nodes are watched.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<std::sync::Arc<Node>> {
        self.nodes.as_ref()?.get(&ObjectRef::new(name))
    }

    /// Whether `node` answers; unknown nodes and clusters without that knowledge count as ready.
    #[must_use]
    pub fn node_ready(&self, node: &str) -> bool {
        let Some(nodes) = &self.nodes else { return true };
        nodes.get(&ObjectRef::new(node)).is_none_or(|node| trimmed::is_ready(&node))
    }
}

/// Streams that keep the stores filled and say what changed; each must be polled.
pub struct Watches {
    pub clusters: BoxStream<'static, Result<InferenceCluster, watcher::Error>>,
    pub pods: BoxStream<'static, Result<Pod, watcher::Error>>,
    pub sets: BoxStream<'static, Result<StatefulSet, watcher::Error>>,
    pub nodes: Option<BoxStream<'static, Result<Node, watcher::Error>>>,
    pub owned: Vec<(ApiResource, BoxStream<'static, Result<DynamicObject, watcher::Error>>)>,
}

impl Watches {
    /// Watches of `scope`; `nodes`: whether nodes may be read.
    #[must_use]
    pub fn new(client: &Client, scope: &Scope, nodes: bool, pod_monitors: bool) -> (Self, Observed) {
        let ours = watcher::Config::default().labels(&format!("{}={LOCKSTEP}", label::MANAGED_BY));
        let (clusters_store, writer) = reflector::store();
        let clusters = watcher(scope.api::<InferenceCluster>(client), watcher::Config::default())
            .default_backoff()
            .modify(trimmed::trim_cluster)
            .reflect(writer);
        let clusters = changes(clusters, cluster_meaning).boxed();
        let (pods_store, writer) = reflector::store();
        let pods = watcher(scope.api::<Pod>(client), ours.clone())
            .default_backoff()
            .modify(trimmed::trim_pod)
            .reflect(writer)
            .touched_objects()
            .boxed();
        let (sets_store, writer) = reflector::store();
        let sets = watcher(scope.api::<StatefulSet>(client), ours.clone())
            .default_backoff()
            .modify(trimmed::trim_stateful_set)
            .reflect(writer);
        let sets = changes(sets, content).boxed();
        let (node_stream, nodes_store) = if nodes { watch_nodes(client) } else { (None, None) };
        let mut owned = Vec::new();
        let mut owned_stores = Vec::new();
        for kind in owned_kinds(pod_monitors) {
            let writer = reflector::store::Writer::<DynamicObject>::new(kind.clone());
            owned_stores.push((kind.clone(), writer.as_reader()));
            let stream = watcher(scope.dynamic(client, &kind), ours.clone())
                .default_backoff()
                .modify(trimmed::trim_to_trace)
                .reflect(writer);
            owned.push((kind, changes(stream, content).boxed()));
        }
        let observed = Observed {
            clusters: clusters_store,
            pods: pods_store,
            sets: sets_store,
            nodes: nodes_store,
            owned: owned_stores,
        };
        (Self { clusters, pods, sets, nodes: node_stream, owned }, observed)
    }
}

type NodeStream = BoxStream<'static, Result<Node, watcher::Error>>;

fn watch_nodes(client: &Client) -> (Option<NodeStream>, Option<Store<Node>>) {
    let (store, writer) = reflector::store();
    let stream = watcher(Api::<Node>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .modify(trimmed::trim_node)
        .reflect(writer);
    (Some(changes(stream, |node| u64::from(trimmed::is_ready(node))).boxed()), Some(store))
}

/// What of a cluster must be looked at anew when it changes: all but its status.
fn cluster_meaning(cluster: &InferenceCluster) -> u64 {
    let mut hasher = DefaultHasher::new();
    let meta = &cluster.metadata;
    (&meta.uid, meta.generation, &meta.labels, &meta.annotations, meta.deletion_timestamp.is_some()).hash(&mut hasher);
    hasher.finish()
}

/// What an owned object says, whose it is, and whether it is going.
fn content<K: Resource>(object: &K) -> u64 {
    let mut hasher = DefaultHasher::new();
    let meta = object.meta();
    (&meta.uid, object.annotations(), meta.deletion_timestamp.is_some()).hash(&mut hasher);
    meta.owner_references.iter().flatten().for_each(|owner| owner.uid.hash(&mut hasher));
    hasher.finish()
}
