//! The watches of one scope (all namespaces, or one), and the stores that they fill.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Debug;
use std::hash::{Hash, Hasher as _};

use futures::stream::{BoxStream, StreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::changes::filter_changes;
use super::lists::{Lists, list_after_loss};
use super::trim;
use crate::objects::kinds::owned_kinds;
use crate::objects::{LOCKSTEP, label};
use crate::resource::InferenceCluster;

/// Namespaces whose clusters an operator looks after.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    All,
    Namespace(String),
}

impl Scope {
    /// Returns the API of the kind `K` within the scope.
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

    /// Returns true if the scope covers `namespace`.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(own) => own == namespace,
        }
    }

    fn dynamic(&self, client: &Client, kind: &ApiResource) -> Api<DynamicObject> {
        match self {
            Self::All => Api::all_with(client.clone(), kind),
            Self::Namespace(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
        }
    }
}

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
    pub fn trace(&self, kind: &str, namespace: &str, name: &str) -> Option<std::sync::Arc<DynamicObject>> {
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
    pub fn pod(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<Pod>> {
        self.pods.get(&ObjectRef::new(name).within(namespace))
    }

    /// Returns a StatefulSet, by name.
    #[must_use]
    pub fn stateful_set(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<StatefulSet>> {
        self.sets.get(&ObjectRef::new(name).within(namespace))
    }

    /// Returns a Kubernetes node, by name, if the operator watches Kubernetes nodes.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<std::sync::Arc<Node>> {
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
    pub clusters: BoxStream<'static, Result<InferenceCluster, watcher::Error>>,
    pub pods: BoxStream<'static, Result<Pod, watcher::Error>>,
    pub sets: BoxStream<'static, Result<StatefulSet, watcher::Error>>,
    pub nodes: Option<BoxStream<'static, Result<Node, watcher::Error>>>,
    pub owned: Vec<(ApiResource, BoxStream<'static, Result<DynamicObject, watcher::Error>>)>,
}

impl Watches {
    /// Makes the watches of `scope`, with those of Kubernetes nodes and of PodMonitors if `nodes` and `pod_monitors`
    /// are set.
    #[must_use]
    pub fn new(client: &Client, scope: &Scope, nodes: bool, pod_monitors: bool) -> (Self, Observed) {
        let ours = watcher::Config::default().labels(&format!("{}={LOCKSTEP}", label::MANAGED_BY));
        let lists = Lists::default();
        let (clusters_store, writer) = reflector::store();
        let api = scope.api::<InferenceCluster>(client);
        let clusters = watch(&lists, api, watcher::Config::default(), writer, trim::trim_cluster);
        let clusters = filter_changes(clusters, hash_cluster).boxed();
        let (pods_store, writer) = reflector::store();
        let pods = watch(&lists, scope.api::<Pod>(client), ours.clone(), writer, trim::trim_pod);
        let pods = pods.touched_objects().boxed();
        let (sets_store, writer) = reflector::store();
        let sets = watch(&lists, scope.api::<StatefulSet>(client), ours.clone(), writer, trim::trim_stateful_set);
        let sets = filter_changes(sets, hash_object).boxed();
        let (node_stream, nodes_store) = if nodes { watch_nodes(client, &lists) } else { (None, None) };
        let mut owned = Vec::new();
        let mut owned_stores = Vec::new();
        for kind in owned_kinds(pod_monitors) {
            let writer = Writer::<DynamicObject>::new(kind.clone());
            owned_stores.push((kind.clone(), writer.as_reader()));
            let stream = watch(&lists, scope.dynamic(client, &kind), ours.clone(), writer, trim::trim_to_trace);
            owned.push((kind, filter_changes(stream, hash_object).boxed()));
        }
        let observed = Observed {
            clusters: clusters_store,
            pods: pods_store,
            sets: sets_store,
            nodes: nodes_store,
            owned: owned_stores,
            lists,
        };
        (Self { clusters, pods, sets, nodes: node_stream, owned }, observed)
    }
}

type NodeStream = BoxStream<'static, Result<Node, watcher::Error>>;

fn watch_nodes(client: &Client, lists: &Lists) -> (Option<NodeStream>, Option<Store<Node>>) {
    let (store, writer) = reflector::store();
    let stream = watch(lists, Api::<Node>::all(client.clone()), watcher::Config::default(), writer, trim::trim_node);
    (Some(filter_changes(stream, |node| u64::from(trim::is_ready(node))).boxed()), Some(store))
}

/// Watches the objects of `api`: trims each object, keeps it in the store of `writer`, and tells `lists` if the store
/// may lack objects.
fn watch<K>(
    lists: &Lists,
    api: Api<K>,
    config: watcher::Config,
    writer: Writer<K>,
    trim: impl FnMut(&mut K) + Send + 'static,
) -> BoxStream<'static, Result<watcher::Event<K>, watcher::Error>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    let events = list_after_loss(move || watcher(api.clone(), config.clone()).boxed());
    lists.follow(events.default_backoff().modify(trim).reflect(writer)).boxed()
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
