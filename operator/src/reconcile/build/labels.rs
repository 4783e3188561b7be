//! Labels, annotations and the field manager, in one place.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::reconcile::validate::Validated;

/// Under which every field is applied.
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
    /// `head` or `worker`.
    pub const ROLE: &str = "lockstep.dev/role";
    /// What the pod was made from.
    pub const REVISION: &str = "lockstep.dev/revision";
    /// Ordinal that a StatefulSet gives each pod.
    pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";
}

/// Keys of annotations.
pub mod annotation {
    /// On a StatefulSet: hash of what the user means.
    pub const REVISION: &str = "lockstep.dev/revision";
    /// On a StatefulSet: the pod template as it was applied. While the revision holds, the live template stays this
    /// one, whatever a newer operator would make.
    pub const TEMPLATE: &str = "lockstep.dev/template";
    /// On every object: hash of what was applied.
    pub const APPLIED: &str = "lockstep.dev/applied";
}

/// Value of `managed-by` and of `name`.
pub const LOCKSTEP: &str = "lockstep";

/// A pod's part in its group, as labels say it.
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

/// Labels of everything that belongs to `cluster`.
#[must_use]
pub fn of_cluster(cluster: &str) -> BTreeMap<String, String> {
    map([(label::MANAGED_BY, LOCKSTEP), (label::NAME, LOCKSTEP), (label::INSTANCE, cluster), (label::CLUSTER, cluster)])
}

/// Labels of what belongs to one group of `cluster`, and to one role in it where that is said.
#[must_use]
pub fn of_group(cluster: &str, group: u32, role: Option<PodRole>) -> BTreeMap<String, String> {
    let mut labels = of_cluster(cluster);
    labels.insert(label::GROUP.into(), group.to_string());
    if let Some(role) = role {
        labels.insert(label::ROLE.into(), role.as_str().into());
        labels.insert(label::COMPONENT.into(), role.as_str().into());
    }
    labels
}

/// Selects pods of `cluster`; narrowed to a group and a role where they are said.
#[must_use]
pub fn selector(cluster: &str, group: Option<u32>, role: Option<PodRole>) -> LabelSelector {
    let mut labels = map([(label::CLUSTER, cluster)]);
    if let Some(group) = group {
        labels.insert(label::GROUP.into(), group.to_string());
    }
    if let Some(role) = role {
        labels.insert(label::ROLE.into(), role.as_str().into());
    }
    LabelSelector { match_labels: Some(labels), ..Default::default() }
}

/// Metadata of an object of `cluster`.
#[must_use]
pub fn metadata(cluster: &Validated, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..Default::default()
    }
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
