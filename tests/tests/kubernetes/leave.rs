//! The operator is upgraded, removed and installed again; a cluster is deleted.

use std::time::Duration;

use anyhow::{Result, ensure};
use lockstep_tests::cluster::{eventually, helm, kubectl};

use super::steps::{LONGEST_WAIT, NAMESPACE, QUICKSTART, WORKER, field, operator, pods, serves};

/// Long enough for an operator to do what it should not.
const WATCHED: Duration = Duration::from_secs(8);

fn nothing_restarts(before: &[(String, String)]) -> Result<()> {
    std::thread::sleep(WATCHED);
    let now = pods()?;
    ensure!(now == before, "pods changed: {before:?} became {now:?}");
    serves(1)
}

/// Another image for agents, another operator pod: what users mean is the same.
pub fn an_upgrade_restarts_nothing() -> Result<()> {
    let before = pods()?;
    operator(&["--set", "agentImage.tag=other", "--set-string", "podAnnotations.version=next"])?;
    nothing_restarts(&before)
}

pub fn uninstalling_keeps_what_serves() -> Result<()> {
    let before = pods()?;
    helm(&["uninstall", "lockstep", "-n", "lockstep-system", "--wait"])?;
    kubectl(&["get", "crd", "inferenceclusters.lockstep.dev"])?;
    for kind in ["deployments", "serviceaccounts", "services"] {
        let selector = "app.kubernetes.io/instance=lockstep";
        let left = kubectl(&["-n", "lockstep-system", "get", kind, "-l", selector, "-o", "name"])?;
        ensure!(left.is_empty(), "left behind: {left}");
    }
    let roles = kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"])?;
    ensure!(!roles.contains("/lockstep"), "left behind: {roles}");
    ensure!(pods()? == before, "pods changed");
    operator(&[])?;
    nothing_restarts(&before)?;
    kubectl(&["-n", NAMESPACE, "delete", "pod", WORKER])?;
    eventually("the new operator to see a worker go", LONGEST_WAIT, || {
        ensure!(pods()? != before, "the pod is the old one");
        Ok(())
    })?;
    serves(1)
}

pub fn deleting_a_cluster_leaves_nothing() -> Result<()> {
    ensure!(field(".metadata.finalizers")?.is_empty(), "a finalizer would hold the cluster while the operator is away");
    kubectl(&["-n", NAMESPACE, "delete", "icl", QUICKSTART])?;
    let kinds = "pods,statefulsets,services,secrets,networkpolicies,poddisruptionbudgets,persistentvolumeclaims";
    eventually("everything of the cluster to go", LONGEST_WAIT, || {
        let selector = format!("lockstep.dev/cluster={QUICKSTART}");
        let left = kubectl(&["-n", NAMESPACE, "get", kinds, "-l", &selector, "-o", "name"])?;
        ensure!(left.is_empty(), "left: {left}");
        Ok(())
    })
}
