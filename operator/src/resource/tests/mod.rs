//! Tests of the CRD against its checked-in copies, and of the messages for bad manifests.

mod chart;

use serde_json::{Value, json};

use super::{crd, crd_yaml, judge, parse};

const GOOD: &str = "\
apiVersion: lockstep.dev/v1alpha1
kind: InferenceCluster
metadata:
  name: tiny
spec:
  model:
    source: builtin://tiny
  workers: 2
";

/// `deploy/crd/` and the chart hold the output of `lockstep crd`. `LOCKSTEP_REGENERATE=1` writes the files.
#[test]
fn the_checked_in_crd_equals_the_derived_crd() {
    let derived = crd_yaml().unwrap();
    for folder in ["deploy/crd", "charts/lockstep/files"] {
        let path = format!("{}/../{folder}/inferenceclusters.lockstep.dev.yaml", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("LOCKSTEP_REGENERATE").is_some() {
            std::fs::write(&path, &derived).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept == derived, "{folder} differs from the output of `lockstep crd`: run `make generate`");
    }
}

#[test]
fn an_endless_file_is_refused() {
    let message = super::load("/dev/zero".as_ref()).unwrap_err().to_string();
    assert!(message.contains("/dev/zero has more than 1572864 bytes"), "{message}");
}

#[test]
fn the_sample_is_accepted() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/samples/quickstart.yaml");
    let cluster = super::load(path.as_ref()).unwrap();
    assert_eq!((cluster.spec.workers, cluster.spec.devices_per_node), (2, 1));
}

#[test]
fn defaults_come_from_the_schema() {
    let text = GOOD.replace("  workers: 2\n", "  serving: { maxNumSeqs: 8 }\n  replicas: null\n  template: null\n");
    let spec = parse(&text, "f").unwrap().spec;
    insta::assert_snapshot!(serde_yaml::to_string(&spec).unwrap());
}

/// Replaces `from` in the good manifest (the whole manifest if `from` is empty) by `to`, and returns the message.
fn message_for(from: &str, to: &str) -> String {
    let text = if from.is_empty() { to.to_owned() } else { GOOD.replace(from, to) };
    match parse(&text, "cluster.yaml") {
        Ok(_) => "accepted".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn bad_manifests_get_a_message() {
    let long = format!("name: {}", "a".repeat(41));
    let source = "source: builtin://tiny";
    let cases = [
        ("", ""),
        ("", "a: [1"),
        ("", "- a"),
        ("", "kind: ConfigMap\napiVersion: v1\n"),
        ("v1alpha1", "v1"),
        ("spec:", "---\nspec:"),
        ("spec:", "spec:\nspec:"),
        ("metadata:\n  name: tiny\n", ""),
        ("name: tiny", "name: Tiny"),
        ("name: tiny", &long),
        ("name: tiny", "naem: tiny"),
        ("name: tiny", "name: tiny\n  labels: { a: 1 }"),
        ("source:", "sorce:"),
        ("spec:", "spec:\n  max_num_seqs: 3"),
        ("workers:", "worker: { spec: { priorityClassName: x } }\n  workers:"),
        ("workers: 2", "workers: two"),
        ("workers: 2", "workers: 2.5"),
        ("workers: 2", "workers: -1"),
        ("workers: 2", "workers: 1000\n  devicesPerNode: 8"),
        ("workers: 2", "backend: nccl"),
        ("workers: 2", "backend: MPI"),
        ("workers: 2", "parallelism: { pipeline: 2 }"),
        ("workers: 2", "serving: { maxNumSeqs: 128, maxNumBatchedTokens: 64 }"),
        ("workers: 2", "serving: { kvCacheMemory: lots, recoveryTimeout: 2h }"),
        ("workers: 2", "serving: { kvCacheMemory: 512Mi, recoveryTimeout: 2m, contextLength: 0 }"),
        (source, "source: hf://meta-llama/Llama-3.1-8B-Instruct\n    revision: main"),
        (source, "source: hf://meta-llama/Llama-3.1-8B-Instruct/main"),
        (source, "source: hf://meta-llama/Llama@main"),
        (source, "source: 'hf://org/name:'"),
        (source, "source: hf://org/name/../m.gguf"),
        (source, "source: pvc://models/../m.gguf"),
        (source, "source: hf://org/name\n    revision: ../x"),
        (source, "source: s3://org/name"),
        (source, "source: builtin://tiny\n    revision: main\n    tokenSecretRef: { name: a }"),
        (source, "source: builtin://huge"),
        (source, "source: file://"),
        (source, "source: ''"),
        (source, "source:"),
        (source, "source: file:///m\n    quantization: int8\n    dtype: fp16\n    name: 'a b'"),
    ];
    let all: Vec<_> =
        cases.iter().map(|(from, to)| format!("{from:?} -> {to:?}\n{}\n", message_for(from, to))).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn the_source_of_a_model_cannot_change() {
    let schema = serde_json::to_value(crd()).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    let with = |source: &str, workers: u32| -> Value {
        json!({ "metadata": { "name": "a" }, "spec": { "model": { "source": source }, "workers": workers } })
    };
    let old = with("file:///a", 1);
    assert!(judge(&schema, &with("file:///a", 2), Some(&old)).is_ok());
    let violations = judge(&schema, &with("file:///b", 1), Some(&old)).unwrap_err();
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].path, "spec.model.source");
    assert!(violations[0].message.contains("for life"), "{violations:?}");
}
