//! Drops from watched objects what no decision needs.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec};
use kube::ResourceExt as _;
use serde_json::json;

use super::SEEN;
use super::seen::hash_of;
use crate::resource::InferenceCluster;

/// A pod keeps its place and its status.
pub(super) fn pod(pod: &mut Pod) {
    pod.managed_fields_mut().clear();
    pod.metadata.annotations = None;
    if let Some(spec) = pod.spec.take() {
        // Names only: a pod without containers would be none.
        let containers = spec.containers.into_iter().map(|one| Container { name: one.name, ..Default::default() });
        pod.spec = Some(PodSpec { node_name: spec.node_name, containers: containers.collect(), ..Default::default() });
    }
    if let Some(status) = &mut pod.status {
        status.host_ip = None;
        status.host_ips = None;
        status.pod_ips = None;
        status.allocated_resources = None;
        status.resources = None;
        for container in status.container_statuses.iter_mut().flatten() {
            container.image_id = String::new();
            container.container_id = None;
            container.volume_mounts = None;
            container.resources = None;
            container.allocated_resources = None;
        }
    }
}

/// A StatefulSet keeps what it was applied as (an annotation) and its numbers; of its template, a hash.
pub(super) fn stateful_set(set: &mut StatefulSet) {
    set.managed_fields_mut().clear();
    if let Some(spec) = &mut set.spec {
        let hash = hash_of(json!({ "spec": spec }), &set.metadata);
        set.metadata.annotations.get_or_insert_default().insert(SEEN.into(), hash);
        spec.template = Default::default();
        spec.volume_claim_templates = None;
    }
}

/// A node keeps its name, its taints and whether it is ready.
pub(super) fn node(node: &mut Node) {
    node.managed_fields_mut().clear();
    node.metadata.annotations = None;
    node.metadata.labels = None;
    if let Some(spec) = node.spec.take() {
        node.spec = Some(k8s_openapi::api::core::v1::NodeSpec {
            taints: spec.taints,
            unschedulable: spec.unschedulable,
            ..Default::default()
        });
    }
    if let Some(status) = node.status.take() {
        let conditions = status.conditions.into_iter().flatten().filter(|condition| condition.type_ == "Ready");
        let conditions = conditions.map(|mut condition| {
            condition.last_heartbeat_time = None;
            condition
        });
        node.status = Some(k8s_openapi::api::core::v1::NodeStatus {
            conditions: Some(conditions.collect()),
            ..Default::default()
        });
    }
}

pub(super) fn cluster(cluster: &mut InferenceCluster) {
    cluster.managed_fields_mut().clear();
    // kubectl's copy of the whole object.
    if let Some(annotations) = &mut cluster.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// Whether the node answers.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
