//! Labels, annotations and the field manager.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Manager of every field that the operator applies.
pub const FIELD_MANAGER: &str = "lockstep";

/// Keys of labels.
pub mod label {
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    pub const NAME: &str = "app.kubernetes.io/name";
    pub const INSTANCE: &str = "app.kubernetes.io/instance";
    pub const COMPONENT: &str = "app.kubernetes.io/component";
    /// Name of the cluster.
    pub const CLUSTER: &str = "lockstep.dev/cluster";
    /// Index of the group.
    pub const GROUP: &str = "lockstep.dev/group";
    /// Role of the pod: `head` or `worker`.
    pub const ROLE: &str = "lockstep.dev/role";
    /// Hash of the spec fields that the pod was made from.
    pub const REVISION: &str = "lockstep.dev/revision";
    /// On a head's pod: `true`, or `false` while the head is silent. The client Service selects `true`.
    pub const HEARD: &str = "lockstep.dev/heard";
    /// Ordinal that a StatefulSet gives each pod.
    pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
}

/// Keys of annotations.
pub mod annotation {
    /// Hash, on a StatefulSet, of the spec fields whose change must reach the pods.
    pub const REVISION: &str = "lockstep.dev/revision";
    /// Pod template, on a StatefulSet, as it was applied. While the revision stays the same, the live template stays
    /// this one, whatever a newer operator would make.
    pub const TEMPLATE: &str = "lockstep.dev/template";
    /// Names of the Kubernetes nodes, on a pod, that were silent when the pod was made, so that it must not land there.
    pub const AVOIDS: &str = "lockstep.dev/avoids";
    /// Hash, on every object, of the object as it was applied.
    pub const APPLIED: &str = "lockstep.dev/applied";
    /// Hash of an object's content in the operator's memory. It is never written to Kubernetes.
    pub const SEEN: &str = "lockstep.dev/seen";
}

/// Value of `managed-by` and of `name`.
pub const LOCKSTEP: &str = "lockstep";

/// Role of a pod in its group, as its labels give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodRole {
    Head,
    Worker,
}

impl PodRole {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Worker => "worker",
        }
    }
}

/// Returns the labels of every object of `cluster`.
#[must_use]
pub fn cluster_labels(cluster: &str) -> BTreeMap<String, String> {
    map([(label::MANAGED_BY, LOCKSTEP), (label::NAME, LOCKSTEP), (label::INSTANCE, cluster), (label::CLUSTER, cluster)])
}

/// Returns the labels of an object of one group of `cluster`, and of one role in the group where `role` is given.
#[must_use]
pub fn group_labels(cluster: &str, group: u32, role: Option<PodRole>) -> BTreeMap<String, String> {
    let mut labels = cluster_labels(cluster);
    labels.insert(label::GROUP.into(), group.to_string());
    if let Some(role) = role {
        labels.insert(label::ROLE.into(), role.as_str().into());
        labels.insert(label::COMPONENT.into(), role.as_str().into());
    }
    labels
}

/// Selects the pods of `cluster`, or only those of `group` and `role` where they are given.
#[must_use]
pub fn select_pods(cluster: &str, group: Option<u32>, role: Option<PodRole>) -> LabelSelector {
    let mut labels = map([(label::CLUSTER, cluster)]);
    if let Some(group) = group {
        labels.insert(label::GROUP.into(), group.to_string());
    }
    if let Some(role) = role {
        labels.insert(label::ROLE.into(), role.as_str().into());
    }
    LabelSelector { match_labels: Some(labels), ..Default::default() }
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
