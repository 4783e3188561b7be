//! Steps that several trials share.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lockstep_tests::client::Client;
use lockstep_tests::cluster::{eventually, helm, kubectl};
use lockstep_tests::manifests::path;
use lockstep_tests::process::program;
use tonic::transport::Endpoint;

/// Longest wait for pods to be placed, to start and to join, on a busy machine.
pub const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Interval at which clients ask a silent connection for a sign of life, and time that they wait for it.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The namespace of the clusters that serve.
pub const NAMESPACE: &str = "models";
/// The sample's name.
pub const QUICKSTART: &str = "quickstart";
/// The sample's pods: the first group's head, and one of its workers.
pub const HEAD: &str = "quickstart-0-head-0";
pub const WORKER: &str = "quickstart-0-worker-0";

/// Installs the operator by its chart, or upgrades it, with more arguments for helm.
pub fn operator(more: &[&str]) -> Result<()> {
    let chart = path("charts/lockstep");
    let chart = chart.to_str().context("the chart's path")?;
    let mut arguments = vec!["upgrade", "--install", "lockstep", chart, "-n", "lockstep-system", "--create-namespace"];
    arguments.extend(["--set", "image.repository=lockstep/operator,image.tag=dev"]);
    arguments.extend(["--set", "agentImage.repository=lockstep/agent,agentImage.tag=dev"]);
    arguments.extend(["--wait", "--timeout", "120s"]);
    arguments.extend(more);
    helm(&arguments).map(drop)
}

pub fn install() -> Result<()> {
    operator(&[])?;
    // The strictest standard: nothing of ours may need an exception.
    kubectl(&["create", "namespace", NAMESPACE])?;
    kubectl(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"]).map(drop)
}

/// A field of the sample's cluster.
pub fn field(path: &str) -> Result<String> {
    kubectl(&["-n", NAMESPACE, "get", "icl", QUICKSTART, "-o", &format!("jsonpath={{{path}}}")])
}

/// Waits until the sample serves with `groups` groups, at its present generation.
pub fn serves(groups: usize) -> Result<()> {
    eventually("the cluster to be ready", LONGEST_WAIT, || {
        let generation = field(".metadata.generation")?;
        let seen = field(".status.observedGeneration")?;
        ensure!(generation == seen, "the status is of generation {seen}, not {generation}");
        let ready = field(".status.conditions[?(@.type==\"Ready\")].status")?;
        let settled = field(".status.conditions[?(@.type==\"Progressing\")].status")?;
        let message = field(".status.summary.message")?;
        ensure!(ready == "True" && settled == "False", "Ready is {ready}, Progressing {settled}: {message}");
        let summary = field(".status.summary.groups")?;
        ensure!(summary == format!("{groups}/{groups}"), "{summary} groups serve");
        Ok(())
    })
}

/// Each pod of the sample with its uid and restarts, by name.
pub fn pods() -> Result<Vec<(String, String)>> {
    let columns = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}";
    let selector = format!("lockstep.dev/cluster={QUICKSTART}");
    let listed = kubectl(&["-n", NAMESPACE, "get", "pods", "-l", &selector, "-o", columns])?;
    let split = |line: &str| line.split_once(' ').map(|(name, rest)| (name.to_owned(), rest.to_owned()));
    Ok(listed.lines().filter_map(split).collect())
}

/// Returns the node of a pod.
pub fn node_of(pod: &str) -> Result<String> {
    kubectl(&["-n", NAMESPACE, "get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"])
}

/// A client of the sample's Service, on a connection of its own.
pub async fn client() -> Result<Client> {
    connected(field(".status.endpoint")?).await
}

/// A client of a head's pod itself. From here Services are reached through one of the nodes: when that loses its power,
/// so do the connections.
pub async fn client_of(head: &str) -> Result<Client> {
    let pod = ["-n", NAMESPACE, "get", "pod", head, "-o", "jsonpath={.status.podIP}"];
    connected(format!("{}:50051", kubectl(&pod)?)).await
}

/// A client of an address, on a connection of its own.
pub async fn connected(address: String) -> Result<Client> {
    // Without keep-alives, a client would wait for ever for a head whose machine is gone.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(Duration::from_secs(5));
    let endpoint = endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    let channel = endpoint.connect().await.with_context(|| format!("connect to {address}"))?;
    Ok(Client::over(channel))
}

/// Runs the `lockstep` command; what it prints, whether it succeeds or not.
pub fn lockstep(arguments: &[&str]) -> Result<String> {
    let output = Command::new(program("lockstep")).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if text.trim().is_empty() {
        bail!("lockstep {arguments:?} printed nothing and ended with {}", output.status);
    }
    Ok(text)
}
