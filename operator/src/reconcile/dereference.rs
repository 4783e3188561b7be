//! The first step: what there is of a cluster, gathered from the watches' stores and from what its head said. It asks the
//! API server only for what no watch tells: see [`events`].

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt as _;

use super::{Context, events};
use crate::diagnosis::list_unready_nodes;
use crate::heads::{GroupKey, HeadPod, Report};
use crate::objects::is_owned_by;
use crate::plan::Names;
use crate::pods;
use crate::resource::InferenceCluster;

/// Most groups of a cluster: the CRD's bound on `replicas`.
const MAX_GROUPS: u32 = 256;

/// What there is of a cluster.
#[derive(Default)]
pub struct Observation {
    /// Groups of which a StatefulSet exists, by index.
    pub groups: BTreeMap<u32, GroupSeen>,
    /// Names that the cluster needs and another owner has.
    pub taken: Vec<String>,
}

/// What there is of a group.
#[derive(Default)]
pub struct GroupSeen {
    pub head_set: Option<Arc<StatefulSet>>,
    pub worker_set: Option<Arc<StatefulSet>>,
    /// By node of the group: 0 is the head's.
    pub pods: BTreeMap<u32, Arc<Pod>>,
    pub report: Option<Report>,
    /// Why the head cannot be reached, where it is tried.
    pub unreachable: Option<String>,
    /// Events about sets that lack pods, and about pods that do not start.
    pub events: Vec<Event>,
    /// Message of each node of the group that is not ready, by the node's name.
    pub unready_nodes: BTreeMap<String, String>,
}

impl GroupSeen {
    /// The head's pod.
    #[must_use]
    pub fn head(&self) -> Option<&Arc<Pod>> {
        self.pods.get(&0)
    }

    /// What the head says now.
    #[must_use]
    pub fn live(&self) -> Option<&Report> {
        self.report.as_ref().filter(|report| report.live)
    }

    /// Where the head is, once it has an address.
    #[must_use]
    pub fn head_pod(&self) -> Option<HeadPod> {
        let pod = self.head()?;
        let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        Some(HeadPod { uid: pod.uid()?, address })
    }

    /// Worker pods that the group's set asks for.
    #[must_use]
    pub fn workers(&self) -> u32 {
        let replicas = self.worker_set.as_ref().and_then(|set| set.spec.as_ref()?.replicas);
        replicas.and_then(|replicas| replicas.try_into().ok()).unwrap_or(0)
    }
}

/// Looks at `cluster`.
pub async fn dereference(context: &Context, cluster: &InferenceCluster) -> Observation {
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let uid = cluster.uid().unwrap_or_default();
    let mut seen = Observation::default();
    for index in 0..MAX_GROUPS {
        let names = Names::new(&name, index);
        let mut set = |name: String| {
            let set = context.observed.set(&namespace, &name)?;
            if is_owned_by(&set.metadata, &uid) == Some(true) {
                return Some(set);
            }
            seen.taken.push(format!("StatefulSet {name}"));
            None
        };
        let (head_set, worker_set) = (set(names.head_set()), set(names.worker_set()));
        if head_set.is_none() && worker_set.is_none() {
            continue;
        }
        let mut group = GroupSeen { head_set, worker_set, ..GroupSeen::default() };
        pods(context, &namespace, &names, cluster.spec.workers, &mut group);
        let key = GroupKey::new(&namespace, &name, index);
        group.report = group.head().and_then(|head| context.heads.report(&key, &head.uid()?));
        group.unreachable = context.heads.trouble(&key);
        group.events = events::read_events(context, &namespace, &group).await;
        group.unready_nodes = unready_nodes(context, &group);
        seen.groups.insert(index, group);
    }
    seen
}

fn pods(context: &Context, namespace: &str, names: &Names, wanted: u32, group: &mut GroupSeen) {
    let workers = group.workers().max(wanted);
    let expected = std::iter::once(names.head_pod()).chain((0..workers).map(|ordinal| names.worker_pod(ordinal)));
    for (node, name) in (0u32..).zip(expected) {
        if let Some(pod) = context.observed.pod(namespace, &name) {
            group.pods.insert(node, pod);
        }
    }
}

/// Returns the message of each node of the group that is not ready.
fn unready_nodes(context: &Context, group: &GroupSeen) -> BTreeMap<String, String> {
    let nodes = group.pods.values().filter_map(|pod| context.observed.node(pods::kube_node(pod)?));
    let nodes: Vec<_> = nodes.collect();
    list_unready_nodes(nodes.iter().map(AsRef::as_ref))
}
