//! Clusters for the unit tests of this crate.

use super::{InferenceCluster, parse};

/// Returns the cluster `llama` in the namespace `ml`, with `spec` as YAML (a flow mapping, or an indented block after a
/// newline). The manifest is judged and has its defaults, as an API server would return it.
pub(crate) fn cluster(spec: &str) -> InferenceCluster {
    let text = format!(
        "apiVersion: lockstep.dev/v1alpha1\nkind: InferenceCluster\nmetadata: {{ name: llama, namespace: ml }}\nspec: {spec}\n"
    );
    let mut cluster = parse(&text, "test").unwrap();
    cluster.metadata.uid = Some("6d1e".into());
    cluster
}
