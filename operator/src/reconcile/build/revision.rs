//! The revision: a hash of the fields of the spec whose change must reach the pods. It does not cover the objects that
//! the operator builds from these fields, so a newer operator restarts no pods.

use serde_json::json;

use crate::objects::hash::short_hash;
use crate::resource::InferenceClusterSpec;

/// Returns a hash, ten hex digits long, of the fields that shape pods.
///
/// The function names each field of the spec, so that a new field does not compile before somebody decides about it.
/// Serialization puts every nested field into the hash, such as those of `model` and `serving`. A new field that shapes
/// pods must not be serialized while it has its default. Otherwise the revision of every existing cluster would change,
/// and an upgrade of the operator would restart all pods.
#[must_use]
pub fn revision(spec: &InferenceClusterSpec) -> String {
    let InferenceClusterSpec {
        model,
        backend,
        replicas: _,
        workers,
        devices_per_node,
        parallelism,
        serving,
        image,
        image_pull_policy,
        image_pull_secrets,
        env,
        resources,
        placement,
        service: _,
        clients: _,
        model_cache,
        autoscaling: _,
        update_strategy: _,
        restart_budget: _,
        template,
        head,
        worker,
    } = spec;
    short_hash(&json!({
        "model": model,
        "backend": backend,
        "workers": workers,
        "devicesPerNode": devices_per_node,
        "parallelism": parallelism,
        "serving": serving,
        "image": image,
        "imagePullPolicy": image_pull_policy,
        "imagePullSecrets": image_pull_secrets,
        "env": env,
        "resources": resources,
        "placement": placement,
        "modelCache": model_cache,
        "template": template,
        "head": head,
        "worker": worker,
    }))
}
