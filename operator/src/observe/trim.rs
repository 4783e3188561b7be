//! Trimming of watched objects to the fields that a decision needs.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::objects::hash::{hash_content, hash_with_labels};
use crate::objects::{annotation, label};
use crate::resource::InferenceCluster;

/// Trims a pod to its Kubernetes node, its status, and the labels that a decision needs. There are more pods than
/// other objects, and Kubernetes' types are large, so vectors also give back their spare capacity.
pub(crate) fn trim_pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    let avoids = pod.metadata.annotations.take().and_then(|mut all| all.remove_entry(annotation::AVOIDS));
    pod.metadata.annotations = avoids.map(|avoids| [avoids].into());
    pod.metadata.owner_references = None;
    if let Some(labels) = &mut pod.metadata.labels {
        labels.retain(|key, _| [label::CLUSTER, label::REVISION, label::HEARD].contains(&key.as_str()));
    }
    if let Some(spec) = pod.spec.take() {
        pod.spec = Some(PodSpec { node_name: spec.node_name, ..Default::default() });
    }
    if let Some(status) = &mut pod.status {
        status.host_ips = None;
        status.pod_ips = None;
        status.allocated_resources = None;
        status.resources = None;
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|condition| ["Ready", "PodScheduled"].contains(&condition.type_.as_str()));
            conditions.shrink_to_fit();
        }
        for containers in [&mut status.container_statuses, &mut status.init_container_statuses] {
            containers.iter_mut().for_each(Vec::shrink_to_fit);
        }
        for container in status.container_statuses.iter_mut().flatten() {
            // The image matters only while the container waits: the diagnosis then names the image.
            if container.state.as_ref().is_none_or(|state| state.waiting.is_none()) {
                container.image = String::new();
            }
            container.image_id = String::new();
            container.container_id = None;
            container.volume_mounts = None;
            container.resources = None;
            container.allocated_resources = None;
        }
    }
}

/// Trims an owned object to its trace: its metadata and a hash of its content. The trace tells whether the object exists,
/// which cluster owns it, what the operator applied, and whether somebody changed the object since.
pub(super) fn trim_to_trace(object: &mut DynamicObject) {
    let hash = hash_content(object);
    object.data = Value::Null;
    trim_metadata(&mut object.metadata);
    object.metadata.annotations.get_or_insert_default().insert(annotation::SEEN.into(), hash);
}

/// Trims metadata to the object's identity, its owners and its annotations. The hash of the content covers the labels.
pub(super) fn trim_metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.labels = None;
    metadata.owner_references.iter_mut().for_each(Vec::shrink_to_fit);
}

/// Trims a StatefulSet to its numbers, its annotations and a hash of its spec and labels.
pub(super) fn trim_stateful_set(set: &mut StatefulSet) {
    if let Some(spec) = &mut set.spec {
        let hash = hash_with_labels(json!({ "spec": spec }), &set.metadata);
        set.metadata.annotations.get_or_insert_default().insert(annotation::SEEN.into(), hash);
        spec.template = Default::default();
        spec.selector = Default::default();
        spec.volume_claim_templates = None;
    }
    trim_metadata(&mut set.metadata);
}

/// Trims a Kubernetes node to its name, its addresses and its condition Ready.
pub(super) fn trim_node(node: &mut Node) {
    node.managed_fields_mut().clear();
    node.metadata.annotations = None;
    node.metadata.labels = None;
    node.spec = None;
    if let Some(status) = node.status.take() {
        let conditions = status.conditions.into_iter().flatten().filter(|condition| condition.type_ == "Ready");
        let conditions = conditions.map(|mut condition| {
            condition.last_heartbeat_time = None;
            condition
        });
        node.status = Some(k8s_openapi::api::core::v1::NodeStatus {
            conditions: Some(conditions.collect()),
            addresses: status.addresses,
            ..Default::default()
        });
    }
}

/// Drops the copy of a cluster that kubectl keeps in an annotation, and the managers of its fields.
pub(super) fn trim_cluster(cluster: &mut InferenceCluster) {
    cluster.managed_fields_mut().clear();
    if let Some(annotations) = &mut cluster.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// Returns true if the condition Ready of the Kubernetes node is True.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
