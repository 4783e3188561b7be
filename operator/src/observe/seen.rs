//! The trace of an owned object: its metadata, and a hash of what it says. Enough to tell whether it is there, whose it
//! is, what was applied and whether somebody changed it since.

use k8s_openapi::api::apps::v1::StatefulSetSpec;
use kube::api::{DynamicObject, ObjectMeta};
use serde_json::{Value, json};

use crate::reconcile::build::short_hash;

/// Annotation under which the hash of an object's content is kept in memory; never written to Kubernetes.
pub const SEEN: &str = "lockstep.dev/seen";

/// Replaces the content of `object` by its hash.
pub(super) fn trace(object: &mut DynamicObject) {
    let hash = content_hash(object);
    object.data = Value::Null;
    super::trimmed::metadata(&mut object.metadata);
    object.metadata.annotations.get_or_insert_default().insert(SEEN.into(), hash);
}

/// Hash of what an object says: its content and its labels. Status is left out: it is not ours.
#[must_use]
pub fn content_hash(object: &DynamicObject) -> String {
    let mut data = object.data.clone();
    if let Value::Object(fields) = &mut data {
        fields.remove("status");
    }
    // StatefulSets are watched as the type that they are, which may write the same content in another way.
    let is_set = object.types.as_ref().is_some_and(|types| types.kind == "StatefulSet");
    if is_set && let Ok(spec) = serde_json::from_value::<StatefulSetSpec>(data["spec"].clone()) {
        data = json!({ "spec": spec });
    }
    hash_of(data, &object.metadata)
}

pub(super) fn hash_of(content: Value, metadata: &ObjectMeta) -> String {
    let labels = serde_json::to_value(&metadata.labels).unwrap_or_default();
    short_hash(&Value::Array(vec![content, labels]))
}

/// Whether the controller that `metadata` names is the object with `uid`; `None` where it names none.
#[must_use]
pub fn owned_by(metadata: &ObjectMeta, uid: &str) -> Option<bool> {
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    Some(controller.uid == uid)
}
