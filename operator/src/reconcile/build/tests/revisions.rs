//! Tests of the fields that change the revision, and so restart pods.

use super::{cluster, validated};
use crate::reconcile::build::revision;

const BASE: &str = "model: { source: 'file:///m' }, workers: 2, devicesPerNode: 2";

fn revision_with(more: &str) -> String {
    revision(&cluster(&format!("{{ {BASE}, {more} }}")).spec)
}

#[test]
fn fields_that_shape_no_pods_keep_the_revision() {
    let base = revision_with("replicas: 1");
    for same in [
        "replicas: 3",
        "service: { type: NodePort, annotations: { a: b } }",
        "clients: { from: Namespace }",
        "autoscaling: { maxReplicas: 3 }",
        "updateStrategy: { maxUnavailable: 2, partition: 1, drainTimeout: 10s }",
        "restartBudget: 3",
        // Fields that are set to their defaults.
        "backend: Auto, serving: { maxNumSeqs: 64 }",
    ] {
        assert_eq!(revision_with(same), base, "{same}");
    }
}

#[test]
fn fields_that_shape_pods_change_the_revision() {
    let mut seen = vec![revision_with("replicas: 1")];
    for (from, to) in
        [("file:///m", "file:///n"), ("workers: 2", "workers: 3"), ("devicesPerNode: 2", "devicesPerNode: 4")]
    {
        seen.push(revision(&cluster(&format!("{{ {} }}", BASE.replace(from, to))).spec));
    }
    let named = BASE.replace("'file:///m'", "'file:///m', name: x, dtype: bf16");
    seen.push(revision(&cluster(&format!("{{ {named} }}")).spec));
    for field in [
        "backend: Nccl",
        "parallelism: { pipeline: 3 }",
        "serving: { maxNumSeqs: 8 }",
        "serving: { allowedOrigins: ['*'] }",
        "serving: { apiKeysSecretRef: { name: a, key: b } }",
        "serving: { tlsSecretRef: { name: a } }",
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
        seen.push(revision_with(field));
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all);
}

/// An upgrade of the operator must restart no pods. So the revision of an existing spec never changes, even if the spec
/// sets every field.
#[test]
fn the_revision_of_a_whole_spec_never_changes() {
    let spec = "
  model: { source: 'hf://org/name', revision: v1, name: small, dtype: bf16, quantization: q8_0, tokenSecretRef: { name: hf, key: token } }
  backend: Ring
  replicas: 2
  workers: 3
  devicesPerNode: 2
  parallelism: { pipeline: 2 }
  serving: { maxNumSeqs: 8, maxNumBatchedTokens: 256, contextLength: 1024, kvCacheMemory: 8Gi, recoveryTimeout: 2m }
  image: registry.example/own:2
  imagePullPolicy: Always
  imagePullSecrets: [{ name: registry }]
  env: [{ name: A, value: x }, { name: B, valueFrom: { secretKeyRef: { name: s, key: k } } }]
  resources: { limits: { memory: 8Gi } }
  placement: { policy: Pack, topologyKey: zone }
  service: { type: NodePort }
  clients: { from: Namespace }
  modelCache: { size: 40Gi, storageClassName: nfs, accessMode: ReadWriteOnce }
  autoscaling: { maxReplicas: 3 }
  updateStrategy: { maxUnavailable: 2 }
  restartBudget: 3
  template: { spec: { priorityClassName: high } }
  head: { metadata: { annotations: { a: b } } }
  worker: { spec: { runtimeClassName: kata } }
";
    assert_eq!(revision(&cluster(spec).spec), "a544f63775");
}

#[test]
fn a_new_default_image_keeps_the_revision() {
    let spec = format!("{{ {BASE} }}");
    let [old, new] = ["agent:1", "agent:2"].map(|image| validated(&spec, image).unwrap());
    assert_ne!(old.image, new.image);
    assert_eq!(revision(&old.spec), revision(&new.spec));
}
