//! A cluster comes up, answers, and is changed under load.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::client::greedy;
use lockstep_tests::cluster::{helm, kubectl};
use lockstep_tests::group::{Group, Spec, Way};
use lockstep_tests::manifests::path;
use lockstep_tests::process::Process;

use super::steps::{HEAD, NAMESPACE, QUICKSTART, client, field, lockstep, pods, serves};

/// Some tokens of the small model's vocabulary.
pub const PROMPT: [u32; 5] = [5, 77, 300, 41, 9];

/// Returns the answer of one process.
pub async fn expected(tokens: u32) -> Result<Vec<u32>> {
    let mut group = Group::start(Spec::new(Way::MultiNode, 1, "builtin://tiny").with("LOCKSTEP_DTYPE", "f32"));
    Ok(group.client().await.generate(greedy(&PROMPT, tokens)).await?.tokens)
}

pub async fn the_quickstart_answers_as_one_process_does() -> Result<()> {
    let sample = std::fs::read_to_string(path("deploy/samples/quickstart.yaml"))?;
    ensure!(sample.contains("dtype: auto"), "the sample says another dtype");
    // The same numbers at every world size are promised in f32.
    let exact = sample.replace("dtype: auto", "dtype: f32");
    lockstep_tests::cluster::apply(NAMESPACE, &exact)?;
    kubectl(&["-n", NAMESPACE, "wait", "icl/quickstart", "--for=condition=Ready", "--timeout=120s"])?;
    serves(1)?;
    ensure!(field(".status.summary.ranks")? == "3/3", "the status does not show three ranks that serve");
    ensure!(field(".status.model.architecture")? == "LlamaForCausalLM", "the model's facts are missing");
    ensure!(field(".status.backend")? == "Ring", "another backend");
    let answer = client().await?.generate(greedy(&PROMPT, 200)).await?;
    ensure!(answer.tokens == expected(200).await?, "three pods and one process differ: {answer:?}");
    let nodes = kubectl(&["-n", NAMESPACE, "get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"])?;
    let mut nodes: Vec<_> = nodes.split_whitespace().collect();
    nodes.sort_unstable();
    nodes.dedup();
    ensure!(nodes.len() == 3, "the pods are not spread: {nodes:?}");
    Ok(())
}

pub fn the_plugin_reaches_it() -> Result<()> {
    let answer = lockstep(&["generate", "-n", NAMESPACE, QUICKSTART, "Once upon a time", "--max-tokens", "8"])?;
    ensure!(!answer.contains("error:"), "{answer}");
    let tree = lockstep(&["status", "-n", NAMESPACE, QUICKSTART])?;
    for word in ["Ready: True", HEAD, "quickstart-0-worker-1", "3/3 serve"] {
        ensure!(tree.contains(word), "{word} is not in:\n{tree}");
    }
    let why = lockstep(&["why", "-n", NAMESPACE, QUICKSTART])?;
    ensure!(why.starts_with("Serving"), "{why}");
    let logs = lockstep(&["logs", "-n", NAMESPACE, QUICKSTART, "--tail", "50"])?;
    ensure!(logs.contains("worker-1") && logs.contains("loaded"), "{logs}");
    let columns = kubectl(&["-n", NAMESPACE, "get", "icl", QUICKSTART])?;
    ensure!(columns.contains("True") && columns.contains("1/1") && columns.contains("3/3"), "{columns}");
    Ok(())
}

pub fn helm_test_generates_a_token() -> Result<()> {
    let chart = path("charts/inference-cluster");
    let chart = chart.to_str().context("the chart's path")?;
    let image = "test.image.repository=lockstep/operator,test.image.tag=dev";
    helm(&["install", "small", chart, "-n", NAMESPACE, "--set", image, "--set", "spec.workers=1"])?;
    helm(&["test", "small", "-n", NAMESPACE, "--timeout", "180s"])?;
    helm(&["test", "lockstep", "-n", "lockstep-system", "--timeout", "60s"])?;
    helm(&["uninstall", "small", "-n", NAMESPACE, "--wait"]).map(drop)
}

/// Streams answers until `stop` is set, each on a connection of its own as a new client would. Returns their number, or
/// the first failure.
pub fn load(stop: Arc<AtomicBool>, want: Vec<u32>) -> tokio::task::JoinHandle<Result<usize>> {
    tokio::spawn(async move {
        let mut answers = 0;
        while !stop.load(Ordering::Relaxed) {
            let which = || format!("request {answers}");
            let mut client = client().await.with_context(which)?;
            let answer = client.generate(greedy(&PROMPT, want.len() as u32)).await.with_context(which)?;
            ensure!(answer.tokens == want, "request {answers} was answered otherwise");
            answers += 1;
        }
        Ok(answers)
    })
}

/// More groups, another revision, fewer groups: while clients come and go.
pub async fn a_change_of_groups_loses_no_request() -> Result<()> {
    let (stop, want) = (Arc::new(AtomicBool::new(false)), expected(60).await?);
    let before = pods()?;
    let clients = [load(stop.clone(), want.clone()), load(stop.clone(), want)];
    kubectl(&["-n", NAMESPACE, "scale", "icl", QUICKSTART, "--replicas=2"])?;
    tokio::task::block_in_place(|| serves(2))?;
    ensure!(before.iter().all(|pod| pods().is_ok_and(|now| now.contains(pod))), "scaling restarted a pod");
    let change = r#"{"spec":{"env":[{"name":"LOCKSTEP_LOG","value":"info"}]}}"#;
    kubectl(&["-n", NAMESPACE, "patch", "icl", QUICKSTART, "--type=merge", "-p", change])?;
    tokio::task::block_in_place(|| serves(2))?;
    let now = pods()?;
    ensure!(now.len() == 6 && !now.iter().any(|pod| before.contains(pod)), "not every pod is new: {now:?}");
    kubectl(&["-n", NAMESPACE, "scale", "icl", QUICKSTART, "--replicas=1"])?;
    tokio::task::block_in_place(|| serves(1))?;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        ensure!(client.await?? > 0, "a client had no answer while the groups changed");
    }
    Ok(())
}

/// A head that was drained has no request to wait for: its pod gets the shortest grace period, which bounds its preStop
/// pause.
pub fn a_drained_head_ends_at_once() -> Result<()> {
    let columns = "jsonpath={.metadata.uid} {.metadata.deletionGracePeriodSeconds}{\"\\n\"}";
    let uid = kubectl(&["-n", NAMESPACE, "get", "pod", HEAD, "-o", "jsonpath={.metadata.uid}"])?;
    let mut command = Command::new("kubectl");
    command.args(["-n", NAMESPACE, "get", "pod", HEAD, "--watch", "-o", columns]);
    let watch = Process::start("kubectl", command);
    let change = r#"{"spec":{"env":[{"name":"LOCKSTEP_LOG","value":"info"},{"name":"ROUND","value":"2"}]}}"#;
    kubectl(&["-n", NAMESPACE, "patch", "icl", QUICKSTART, "--type=merge", "-p", change])?;
    serves(1)?;
    let seen = watch.stdout();
    ensure!(seen.lines().any(|line| line == format!("{uid} 1")), "the pod {uid} was not ended at once:\n{seen}");
    Ok(())
}
