//! Kubernetes nodes that are not ready, and pods that failed with their Kubernetes node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;

use super::{ClusterFacts, Diagnosis, Reason, Subject, live_pods, pod_name};
use crate::pods;

/// Returns the message of each Kubernetes node that is not ready, by the name of the Kubernetes node.
#[must_use]
pub fn list_unready_nodes<'a>(nodes: impl Iterator<Item = &'a Node>) -> BTreeMap<String, String> {
    let unready = |node: &Node| {
        let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.find(|condition| condition.type_ == "Ready")?;
        let name = node.metadata.name.clone()?;
        (ready.status != "True").then(|| (name, ready.message.clone().unwrap_or_default()))
    };
    nodes.filter_map(unready).collect()
}

/// Returns the first pod whose Kubernetes node is not ready, or that Kubernetes reports as lost with its Kubernetes
/// node.
pub(super) fn find_lost_node(facts: &ClusterFacts<'_>) -> Option<Diagnosis> {
    facts.pods.iter().find_map(|pod| {
        let node = pods::kube_node(pod)?;
        let gone = pod.status.as_ref().filter(|status| status.reason.as_deref() == Some("NodeLost"));
        let evidence = match (facts.unready_nodes.get(node), gone) {
            (Some(message), _) => message.clone(),
            (None, Some(status)) => status.message.clone().unwrap_or_default(),
            (None, None) => return None,
        };
        let subject = Subject { cluster: facts.cluster, pod: pod_name(pod), object: node, detail: "" };
        Some(Diagnosis::new(Reason::NodeLost, subject).with_evidence(evidence))
    })
}

/// Returns the first pod that failed as a whole: its Kubernetes node evicted or refused the pod.
pub(super) fn find_failed_pod(facts: &ClusterFacts<'_>) -> Option<Diagnosis> {
    live_pods(facts).find_map(|pod| {
        let subject = Subject { cluster: facts.cluster, pod: pod_name(pod), ..Subject::default() };
        Some(Diagnosis::new(Reason::PodFailed, subject).with_evidence(pods::failure(pod)?))
    })
}
