//! The first step: collects the observed state of a cluster from the stores of the watches and the reports of its
//! heads. It asks the API server only for events, which no watch shows: see [`events`]. It asks nodes only about a head
//! that does not answer: see [`contacts`].

use std::collections::BTreeMap;

use kube::ResourceExt as _;

use super::observation::{GroupSeen, Observation};
use super::{Context, contacts, events};
use crate::diagnosis::list_unready_nodes;
use crate::heads::GroupKey;
use crate::objects::is_owned_by;
use crate::plan::Names;
use crate::pods;
use crate::resource::InferenceCluster;

/// Largest number of groups of a cluster, which is the CRD's bound of `replicas`.
const MAX_GROUPS: u32 = 256;

/// Collects the observed state of `cluster`.
pub async fn dereference(context: &Context, cluster: &InferenceCluster) -> Observation {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let uid = cluster.uid().unwrap_or_default();
    let mut seen = Observation::default();
    for index in 0..MAX_GROUPS {
        let names = Names::new(&name, index);
        let mut set = |name: String| {
            let set = context.observed.stateful_set(&namespace, &name)?;
            if is_owned_by(&set.metadata, &uid) == Some(true) {
                return Some(set);
            }
            seen.taken_names.push(format!("StatefulSet {name}"));
            None
        };
        let (head_set, worker_set) = (set(names.head_set()), set(names.worker_set()));
        if head_set.is_none() && worker_set.is_none() {
            continue;
        }
        let mut group = GroupSeen { head_set, worker_set, ..GroupSeen::default() };
        collect_pods(context, &namespace, &names, cluster.spec.workers, &mut group);
        let key = GroupKey::new(&namespace, &name, index);
        group.report = group.head().and_then(|head| context.heads.report(&key, &head.uid()?));
        group.unreachable = context.heads.failure(&key);
        group.contacts = contacts::ask_around(context, &group, cluster.spec.devices_per_node).await;
        group.events = events::read_events(context, &namespace, &group).await;
        group.unready_nodes = unready_nodes(context, &group);
        seen.groups.insert(index, group);
    }
    seen
}

fn collect_pods(context: &Context, namespace: &str, names: &Names, wanted_workers: u32, group: &mut GroupSeen) {
    let workers = group.workers().max(wanted_workers);
    let expected = std::iter::once(names.head_pod()).chain((0..workers).map(|ordinal| names.worker_pod(ordinal)));
    for (ordinal, name) in (0u32..).zip(expected) {
        if let Some(pod) = context.observed.pod(namespace, &name) {
            group.pods.insert(ordinal, pod);
        }
    }
}

/// Returns the message of each Kubernetes node of the group that is not ready, by the node's name.
fn unready_nodes(context: &Context, group: &GroupSeen) -> BTreeMap<String, String> {
    let nodes = group.pods.values().filter_map(|pod| context.observed.node(pods::kube_node(pod)?));
    let nodes: Vec<_> = nodes.collect();
    list_unready_nodes(nodes.iter().map(AsRef::as_ref))
}
