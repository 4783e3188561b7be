//! The cluster that owns an object.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Identity of a cluster, as the objects that it owns carry it.
#[derive(Debug, Clone)]
pub struct ClusterIdentity {
    pub name: String,
    pub namespace: String,
    /// Reference to the cluster in the metadata of every object.
    pub owner: OwnerReference,
}

impl ClusterIdentity {
    /// Returns the metadata of an object of the cluster.
    #[must_use]
    pub fn metadata(&self, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![self.owner.clone()]),
            ..Default::default()
        }
    }
}

/// Returns true if the controller that `metadata` names has `uid`, and `None` if `metadata` names no controller.
#[must_use]
pub fn is_owned_by(metadata: &ObjectMeta, uid: &str) -> Option<bool> {
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    Some(controller.uid == uid)
}
