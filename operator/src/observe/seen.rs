//! The trace of an owned object: its metadata, and a hash of what it says. Enough to tell whether it is there, whose it
//! is, what was applied and whether somebody changed it since.

use kube::api::{DynamicObject, ObjectMeta};
use serde_json::Value;

use crate::reconcile::build::short_hash;

/// Annotation under which the hash of an object's content is kept in memory; never written to Kubernetes.
pub const SEEN: &str = "lockstep.dev/seen";

/// Replaces the content of `object` by its hash. Status is left out: it is not ours.
pub(super) fn trace(object: &mut DynamicObject) {
    let mut data = std::mem::take(&mut object.data);
    if let Value::Object(fields) = &mut data {
        fields.remove("status");
    }
    let labels = serde_json::to_value(&object.metadata.labels).unwrap_or_default();
    let hash = short_hash(&Value::Array(vec![data, labels]));
    object.metadata.managed_fields = None;
    object.metadata.annotations.get_or_insert_default().insert(SEEN.into(), hash);
}

/// Whether the controller that `metadata` names is the object with `uid`; `None` where it names none.
#[must_use]
pub fn owned_by(metadata: &ObjectMeta, uid: &str) -> Option<bool> {
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    Some(controller.uid == uid)
}
