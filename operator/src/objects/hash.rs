//! Hashes of objects. The operator compares them instead of the content, which is too large to keep.

use k8s_openapi::api::apps::v1::StatefulSetSpec;
use kube::api::{DynamicObject, ObjectMeta};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Returns ten hex digits over `value`. The order of its keys does not matter.
#[must_use]
pub fn short_hash(value: &Value) -> String {
    let digest = Sha256::digest(sorted(value).to_string().as_bytes());
    digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut pairs: Vec<_> = fields.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(pairs.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// Returns the hash of an object's content and labels. The status is left out: Kubernetes writes it.
#[must_use]
pub fn hash_content(object: &DynamicObject) -> String {
    let mut data = object.data.clone();
    if let Value::Object(fields) = &mut data {
        fields.remove("status");
    }
    // The operator watches StatefulSets as their own type, which may write the same content in another way.
    let is_set = object.types.as_ref().is_some_and(|types| types.kind == "StatefulSet");
    if is_set && let Ok(spec) = serde_json::from_value::<StatefulSetSpec>(data["spec"].clone()) {
        data = json!({ "spec": spec });
    }
    hash_with_labels(data, &object.metadata)
}

/// Returns the hash of `content` and of the labels in `metadata`.
#[must_use]
pub fn hash_with_labels(content: Value, metadata: &ObjectMeta) -> String {
    let labels = serde_json::to_value(&metadata.labels).unwrap_or_default();
    short_hash(&Value::Array(vec![content, labels]))
}
