//! `kubectl get`, `kubectl describe`, events and `lockstep why` name a fault by one word.

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::cluster::{Namespace, eventually};
use lockstep_tests::manifests;
use serde_json::Value;

use super::steps::{LONGEST_WAIT, lockstep};

/// A cluster with one fault.
struct Fault {
    /// Name of the cluster.
    name: &'static str,
    /// Lines of the spec after `workers`. If the first does not name a model, the cluster serves `builtin://tiny`.
    spec: &'static str,
    reason: &'static str,
    /// Part of the row of `kubectl get` and of `kubectl describe`.
    words: &'static str,
    /// Part of the remedy that `lockstep why` gives.
    remedy: &'static str,
}

const FAULTS: [Fault; 9] = [
    Fault {
        name: "image",
        spec: "image: nowhere.invalid/agent:1",
        reason: "ImageNotFound",
        words: "nowhere.invalid/agent:1",
        remedy: "correct spec.image",
    },
    Fault {
        name: "name",
        spec: "image: registry.example/Agent:1",
        reason: "ImageInvalid",
        words: "registry.example/Agent:1",
        remedy: "REGISTRY/NAME:TAG",
    },
    Fault {
        name: "resource",
        spec: "resources: {limits: {example.com/tpu: '1'}}",
        reason: "InsufficientResources",
        words: "Insufficient example.com/tpu",
        remedy: "nodes",
    },
    Fault {
        name: "memory",
        spec: "resources: {limits: {memory: 6Mi}}",
        reason: "OutOfMemory",
        words: "OOMKilled",
        remedy: "limits.memory",
    },
    Fault {
        name: "crash",
        spec: "env: [{name: LOCKSTEP_ISA, value: nonsense}]",
        reason: "CrashLoop",
        words: "LOCKSTEP_ISA=nonsense",
        remedy: "lockstep logs",
    },
    Fault {
        name: "budget",
        spec: "restartBudget: 1\n  env: [{name: LOCKSTEP_ISA, value: nonsense}]",
        reason: "RestartBudgetSpent",
        words: "LOCKSTEP_ISA=nonsense",
        remedy: "change the spec",
    },
    Fault {
        name: "model",
        spec: "model: {source: 'file:///models/nowhere'}",
        reason: "ModelNotFound",
        words: "file:///models/nowhere",
        remedy: "spec.model.source",
    },
    Fault {
        name: "claim",
        spec: "model: {source: 'pvc://nowhere/tiny'}",
        reason: "ClaimMissing",
        words: "PersistentVolumeClaim nowhere",
        remedy: "create the claim nowhere",
    },
    Fault {
        name: "volume",
        spec: "template: {spec: {volumes: [{name: more, configMap: {name: nowhere}}], containers: [{name: rank, \
               volumeMounts: [{name: more, mountPath: /more}]}]}}",
        reason: "VolumeNotMounted",
        words: "configmap \"nowhere\" not found",
        remedy: "ConfigMap",
    },
];

const QUOTA: Fault =
    Fault { name: "quota", spec: "", reason: "QuotaExceeded", words: "exceeded quota: small", remedy: "ResourceQuota" };

pub fn what_is_wrong_is_said() -> Result<()> {
    let bad = Namespace::new("bad")?;
    let full = Namespace::new("full")?;
    // All clusters at once: each fault takes its time to show.
    let manifests: Vec<_> = FAULTS.iter().map(manifest).collect();
    bad.apply(&manifests.join("---\n"))?;
    full.kubectl(&["create", "quota", "small", "--hard=pods=1"])?;
    full.apply(&manifest(&QUOTA))?;
    for fault in &FAULTS {
        await_reason(&bad, fault)?;
    }
    await_reason(&full, &QUOTA)
}

fn manifest(fault: &Fault) -> String {
    let model = if fault.spec.starts_with("model") { "" } else { "model: {source: 'builtin://tiny'}" };
    manifests::cluster(fault.name, &format!("\n  workers: 1\n  {model}\n  {}", fault.spec))
}

fn await_reason(namespace: &Namespace, fault: &Fault) -> Result<()> {
    let Fault { name, reason, words, remedy, .. } = fault;
    eventually(&format!("{reason} of {name} to be shown"), LONGEST_WAIT, || {
        let row = namespace.kubectl(&["get", "icl", name, "--no-headers"])?;
        ensure!(row.contains("False") && row.contains(words), "the table says: {row}");
        // REASON is a column of its own, and holds one word.
        ensure!(row.split_whitespace().any(|column| column == *reason), "the table says: {row}");
        let described = namespace.kubectl(&["describe", "icl", name])?;
        ensure!(described.contains(words), "it is described so: {described}");

        let why: Value = serde_json::from_str(&lockstep(&["why", "-n", namespace.name(), name, "-o", "json"])?)?;
        let remedy_given = why["remedy"].as_str().context("a remedy")?;
        ensure!(remedy_given.contains(remedy), "why says: {why}");
        let of_condition = |kind: &str| {
            let path = format!("jsonpath={{.status.conditions[?(@.type==\"{kind}\")].reason}}");
            namespace.kubectl(&["get", "icl", name, "-o", &path])
        };
        let reasons =
            [of_condition("Ready")?, of_condition("Degraded")?, why["reason"].as_str().context("a reason")?.to_owned()];
        ensure!(reasons.iter().all(|found| found == reason), "Ready, Degraded and why: {reasons:?}, not {reason}");
        let selector = format!("involvedObject.kind=InferenceCluster,involvedObject.name={name},type=Warning");
        let path = "jsonpath={.items[*].reason}";
        let events = namespace.kubectl(&["get", "events", "--field-selector", &selector, "-o", path])?;
        ensure!(events.split_whitespace().any(|event| event == *reason), "events: {events}, not {reason}");
        Ok(())
    })
}
