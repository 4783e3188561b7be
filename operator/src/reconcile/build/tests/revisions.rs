//! What restarts pods, and what does not.

use super::{cluster, validated};
use crate::reconcile::build::revision;

const BASE: &str = "model: { source: 'file:///m' }, workers: 2, devicesPerNode: 2";

fn of(more: &str) -> String {
    revision(&cluster(&format!("{{ {BASE}, {more} }}")).spec)
}

#[test]
fn what_shapes_no_pod_restarts_none() {
    let base = of("replicas: 1");
    for same in [
        "replicas: 3",
        "service: { type: NodePort, annotations: { a: b } }",
        "clients: { from: Namespace }",
        "autoscaling: { maxReplicas: 3 }",
        "updateStrategy: { maxUnavailable: 2, partition: 1, drainTimeout: 10s }",
        "restartBudget: 3",
        // Said, but as the default says it.
        "backend: Auto, serving: { maxNumSeqs: 64 }",
    ] {
        assert_eq!(of(same), base, "{same}");
    }
}

#[test]
fn what_shapes_pods_changes_the_revision() {
    let mut seen = vec![of("replicas: 1")];
    for (from, to) in
        [("file:///m", "file:///n"), ("workers: 2", "workers: 3"), ("devicesPerNode: 2", "devicesPerNode: 4")]
    {
        seen.push(revision(&cluster(&format!("{{ {} }}", BASE.replace(from, to))).spec));
    }
    let named = BASE.replace("'file:///m'", "'file:///m', name: x, dtype: bf16");
    seen.push(revision(&cluster(&format!("{{ {named} }}")).spec));
    for other in [
        "backend: Nccl",
        "serving: { maxNumSeqs: 8 }",
        "image: 'a:1'",
        "imagePullPolicy: Never",
        "imagePullSecrets: [{ name: a }]",
        "env: [{ name: A, value: b }]",
        "resources: { limits: { cpu: 1 } }",
        "placement: { policy: Any }",
        "modelCache: { size: 1Gi }",
        "template: { spec: { priorityClassName: a } }",
        "head: { spec: { priorityClassName: a } }",
        "worker: { spec: { priorityClassName: a } }",
    ] {
        seen.push(of(other));
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all);
}

#[test]
fn a_new_default_image_is_no_new_revision() {
    let spec = format!("{{ {BASE} }}");
    let [old, new] = ["agent:1", "agent:2"].map(|image| validated(&spec, image).unwrap());
    assert_ne!(old.image, new.image);
    assert_eq!(revision(&old.spec), revision(&new.spec));
}
