//! The hash of what a user means: of those fields of the spec alone whose change must reach the pods. What the operator
//! would render from them is not part of it, so a newer operator restarts nothing.

use serde_json::json;

use crate::objects::hash::short_hash;
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
