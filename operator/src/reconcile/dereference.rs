//! The first step: collects the observed state of a cluster from the stores of the watches and the reports of its
//! heads. Only events are requested from the API server, because no watch shows them: see [`events`].

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

/// Largest number of groups of a cluster, which is the CRD's bound of `replicas`.
const MAX_GROUPS: u32 = 256;

/// Observed state of a cluster.
#[derive(Default)]
pub struct Observation {
    /// Groups that have a StatefulSet, by index.
    pub groups: BTreeMap<u32, GroupSeen>,
    /// Kinds and names of objects that the cluster needs and that have another owner.
    pub taken_names: Vec<String>,
}

/// Observed state of a group.
#[derive(Default)]
pub struct GroupSeen {
    pub head_set: Option<Arc<StatefulSet>>,
    pub worker_set: Option<Arc<StatefulSet>>,
    /// Pods by ordinal in the group. The head pod is 0, and worker pod `n` is `n + 1`.
    pub pods: BTreeMap<u32, Arc<Pod>>,
    /// Last report of the head.
    pub report: Option<Report>,
    /// Reason why the head cannot be reached, if the operator tries to reach it.
    pub unreachable: Option<String>,
    /// Events about sets that lack pods, and about pods that do not start.
    pub events: Vec<Event>,
    /// Message of each node of the group that is not ready, by the node's name.
    pub unready_nodes: BTreeMap<String, String>,
}

impl GroupSeen {
    /// Returns the head's pod.
    #[must_use]
    pub fn head(&self) -> Option<&Arc<Pod>> {
        self.pods.get(&0)
    }

    /// Returns the report of a head that is connected now.
    #[must_use]
    pub fn live_report(&self) -> Option<&Report> {
        self.report.as_ref().filter(|report| report.live)
    }

    /// Returns the uid and address of the head's pod, if it has an address.
    #[must_use]
    pub fn head_address(&self) -> Option<HeadPod> {
        let pod = self.head()?;
        let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        Some(HeadPod { uid: pod.uid()?, address })
    }

    /// Returns the number of worker pods that the group's StatefulSet asks for.
    #[must_use]
    pub fn workers(&self) -> u32 {
        let replicas = self.worker_set.as_ref().and_then(|set| set.spec.as_ref()?.replicas);
        replicas.and_then(|replicas| replicas.try_into().ok()).unwrap_or(0)
    }
}

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
        group.events = events::read_events(context, &namespace, &group).await;
        group.unready_nodes = unready_nodes(context, &group);
        seen.groups.insert(index, group);
    }
    seen
}

fn collect_pods(context: &Context, namespace: &str, names: &Names, wanted: u32, group: &mut GroupSeen) {
    let workers = group.workers().max(wanted);
    let expected = std::iter::once(names.head_pod()).chain((0..workers).map(|ordinal| names.worker_pod(ordinal)));
    for (ordinal, name) in (0u32..).zip(expected) {
        if let Some(pod) = context.observed.pod(namespace, &name) {
            group.pods.insert(ordinal, pod);
        }
    }
}

/// Returns the message of each node of the group that is not ready.
fn unready_nodes(context: &Context, group: &GroupSeen) -> BTreeMap<String, String> {
    let nodes = group.pods.values().filter_map(|pod| context.observed.node(pods::kube_node(pod)?));
    let nodes: Vec<_> = nodes.collect();
    list_unready_nodes(nodes.iter().map(AsRef::as_ref))
}
