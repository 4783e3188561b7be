//! `kubectl get`, `describe` and `lockstep why` tell a stranger what is wrong.

use anyhow::{Result, ensure};
use lockstep_tests::cluster::{Namespace, eventually};
use lockstep_tests::manifests;

use super::steps::{PATIENCE, lockstep};

/// Name, spec, reason in the table, what the table and `describe` must say, the remedy that `why` must name.
const CASES: [(&str, &str, &str, &str, &str); 5] = [
    ("image", "image: nowhere.invalid/agent:1", "ImagePull", "nowhere.invalid/agent:1", "correct spec.image"),
    (
        "resource",
        "resources: {limits: {example.com/tpu: '1'}}",
        "Unschedulable",
        "Insufficient example.com/tpu",
        "nodes",
    ),
    ("model", "model: {source: 'file:///models/nowhere'}", "CrashLoop", "file:///models/nowhere", "spec.model.source"),
    ("memory", "resources: {limits: {memory: 6Mi}}", "OutOfMemory", "OOMKilled", "limits.memory"),
    (
        "crash",
        "restartBudget: 1\n  env: [{name: LOCKSTEP_ISA, value: nonsense}]",
        "RestartBudgetSpent",
        "LOCKSTEP_ISA=nonsense",
        "change the spec",
    ),
];

pub fn what_is_wrong_is_said() -> Result<()> {
    let bad = Namespace::new("bad")?;
    let full = Namespace::new("full")?;
    for (name, spec, ..) in CASES {
        let model = if spec.starts_with("model") { "" } else { "model: {source: 'builtin://tiny'}\n  " };
        bad.apply(&cluster(name, &format!("{model}{spec}")))?;
    }
    full.kubectl(&["create", "quota", "small", "--hard=pods=1"])?;
    full.apply(&cluster("quota", "model: {source: 'builtin://tiny'}"))?;
    for (name, _, reason, words, remedy) in CASES {
        said(&bad, name, reason, words, remedy)?;
    }
    said(&full, "quota", "QuotaExceeded", "exceeded quota: small", "ResourceQuota")
}

fn cluster(name: &str, spec: &str) -> String {
    manifests::cluster(name, &format!("\n  workers: 1\n  {spec}"))
}

fn said(namespace: &Namespace, name: &str, reason: &str, words: &str, remedy: &str) -> Result<()> {
    eventually(&format!("the trouble of {name} to be told"), PATIENCE, || {
        let row = namespace.kubectl(&["get", "icl", name, "--no-headers"])?;
        ensure!(row.contains("False") && row.contains(reason) && row.contains(words), "the table says: {row}");
        let described = namespace.kubectl(&["describe", "icl", name])?;
        ensure!(described.contains(words) && described.contains(reason), "it is described so: {described}");
        let why = lockstep(&["why", "-n", namespace.name(), name])?;
        ensure!(why.contains("remedy") && why.contains(remedy), "why says: {why}");
        Ok(())
    })
}
