//! The objects of the simulated API server, by kind and name, and the changes that its watches tell. There is one
//! namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt as _};
use lockstep_operator::resource::InferenceCluster;
use tokio::sync::Notify;

use super::script::Millis;

/// Namespace of everything.
pub(super) const NAMESPACE: &str = "models";

/// Returns the time of day at `now`.
pub(super) fn time_of_day(now: Millis) -> Timestamp {
    let start = Timestamp::from_second(1_800_000_000).expect("a date");
    start + SignedDuration::from_millis(now as i64)
}

/// Returns the time of day at `now` as objects have it, in whole seconds.
pub(super) fn time_in_object(now: Millis) -> Time {
    Time(time_of_day(now / 1000 * 1000))
}

/// One change of an object.
#[derive(Debug, Clone)]
pub(super) struct Change<K> {
    pub at: Millis,
    pub deleted: bool,
    pub object: Arc<K>,
}

/// Objects of one kind.
pub(super) struct Table<K> {
    pub objects: BTreeMap<String, Arc<K>>,
    pub changes: Vec<Change<K>>,
    /// Told of each change, and of each fault of a watch.
    pub news: Arc<Notify>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), changes: Vec::new(), news: Arc::default() }
    }
}

/// Counts resource versions and uids.
#[derive(Default)]
pub(super) struct Counter(u64);

impl Counter {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

impl<K: Resource + Clone> Table<K> {
    pub(super) fn get(&self, key: &str) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    /// Writes an object. A new one gets a uid and the time of its creation.
    pub(super) fn put(&mut self, counter: &mut Counter, now: Millis, key: &str, mut object: K) -> Arc<K> {
        let meta = object.meta_mut();
        meta.resource_version = Some(counter.next().to_string());
        meta.uid.get_or_insert_with(|| format!("uid-{}", counter.next()));
        meta.creation_timestamp.get_or_insert_with(|| time_in_object(now));
        let object = Arc::new(object);
        self.objects.insert(key.to_owned(), object.clone());
        self.tell(now, false, object.clone());
        object
    }

    pub(super) fn remove(&mut self, counter: &mut Counter, now: Millis, key: &str) -> Option<Arc<K>> {
        let mut object = self.objects.remove(key)?;
        Arc::make_mut(&mut object).meta_mut().resource_version = Some(counter.next().to_string());
        self.tell(now, true, object.clone());
        Some(object)
    }

    fn tell(&mut self, at: Millis, deleted: bool, object: Arc<K>) {
        self.changes.push(Change { at, deleted, object });
        self.news.notify_waiters();
    }
}

/// All objects.
#[derive(Default)]
pub(super) struct Objects {
    pub clusters: Table<InferenceCluster>,
    pub pods: Table<Pod>,
    pub sets: Table<StatefulSet>,
    pub nodes: Table<Node>,
    /// Objects of all other kinds, by kind and name: `Service/models-0`.
    pub others: Table<DynamicObject>,
    pub counter: Counter,
}

impl Objects {
    pub(super) fn put_pod(&mut self, now: Millis, pod: Pod) {
        self.pods.put(&mut self.counter, now, &pod.name_any(), pod);
    }

    pub(super) fn put_set(&mut self, now: Millis, set: StatefulSet) {
        self.sets.put(&mut self.counter, now, &set.name_any(), set);
    }

    pub(super) fn put_node(&mut self, now: Millis, node: Node) {
        self.nodes.put(&mut self.counter, now, &node.name_any(), node);
    }

    pub(super) fn remove_pod(&mut self, now: Millis, name: &str) {
        self.pods.remove(&mut self.counter, now, name);
    }
}
