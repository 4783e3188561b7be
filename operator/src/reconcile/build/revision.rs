//! The hash of what a user means: of those fields of the spec alone whose change must reach the pods. What the operator
//! would render from them is not part of it, so a newer operator restarts nothing.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::resource::InferenceClusterSpec;

/// Ten hex digits over the fields that shape pods.
#[must_use]
pub fn revision(spec: &InferenceClusterSpec) -> String {
    short_hash(&json!({
        "model": spec.model,
        "backend": spec.backend,
        "workers": spec.workers,
        "devicesPerNode": spec.devices_per_node,
        "parallelism": spec.parallelism,
        "serving": spec.serving,
        "image": spec.image,
        "imagePullPolicy": spec.image_pull_policy,
        "imagePullSecrets": spec.image_pull_secrets,
        "env": spec.env,
        "resources": spec.resources,
        "placement": spec.placement,
        "modelCache": spec.model_cache,
        "template": spec.template,
        "head": spec.head,
        "worker": spec.worker,
    }))
}

/// Ten hex digits over `value`, whatever the order of its keys.
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
