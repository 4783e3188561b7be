//! Observed state of a cluster, which `dereference` collects and all later steps read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt as _;
use lockstep_proto::v1::Phase;

use super::contacts::Contacts;
use crate::heads::{HeadPod, Report};
use crate::plan::HEAD;
use crate::pods;

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
    /// What others say of a head that the operator cannot reach, and of machines that do not answer.
    pub contacts: Contacts,
    /// Events about StatefulSets that lack pods, and about the first pod that does not start.
    pub events: Vec<Event>,
    /// Message of each Kubernetes node of the group that is not ready, by the node's name.
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

    /// Returns true if the head is connected, or if its pod is ready and the operator has not failed to reach it. The
    /// operator connects to a head only if its cluster is not steady.
    #[must_use]
    pub fn head_answers(&self) -> bool {
        let is_ready = self.head().is_some_and(|pod| pods::is_ready(pod));
        self.live_report().is_some() || (is_ready && self.unreachable.is_none())
    }

    /// Returns true if the head runs, and the operator has neither heard it nor failed to reach it yet, as after a start of
    /// the operator. A head that drains is not ready, and may still have requests.
    #[must_use]
    pub fn is_head_unheard(&self) -> bool {
        let runs = |pod: &Arc<Pod>| {
            let mut containers = pods::containers(pod).filter(|container| container.name == HEAD);
            containers.any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
        };
        self.live_report().is_none() && self.unreachable.is_none() && self.head().is_some_and(runs)
    }

    /// Returns the uid and address of the head's pod, if it has an address.
    #[must_use]
    pub fn head_address(&self) -> Option<HeadPod> {
        let pod = self.head()?;
        let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        Some(HeadPod { uid: pod.uid()?, address })
    }

    /// Returns true if the head has given up all ranks of `pod`, which has this ordinal in the group. Returns `None` if
    /// no head is connected.
    #[must_use]
    pub fn has_lost_ranks(&self, ordinal: u32, pod: &Pod, ranks_per_pod: u32) -> Option<bool> {
        let ranks = &self.live_report()?.status.ranks;
        let mut ranks = ranks.iter().filter(|rank| rank.rank / ranks_per_pod == ordinal);
        // If the head has replaced the pod already, its report names another host for the rank.
        Some(ranks.all(|rank| rank.host != pod.name_any() || [Phase::Lost, Phase::Pending].contains(&rank.phase())))
    }

    /// Returns the names of the Kubernetes nodes that do not answer and that have pods which the group has given up.
    #[must_use]
    pub fn silent_kube_nodes(&self) -> BTreeSet<String> {
        let pods = self.contacts.silent_machines.iter().filter_map(|ordinal| self.pods.get(ordinal));
        pods.filter_map(|pod| Some(pods::kube_node(pod)?.to_owned())).collect()
    }

    /// Returns the number of worker pods that the group's worker StatefulSet asks for.
    #[must_use]
    pub fn workers(&self) -> u32 {
        let replicas = self.worker_set.as_ref().and_then(|set| set.spec.as_ref()?.replicas);
        replicas.and_then(|replicas| replicas.try_into().ok()).unwrap_or(0)
    }
}
