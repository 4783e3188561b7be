//! Pods and nodes die while answers stream.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::client::{Answer, greedy};
use lockstep_tests::cluster::{Node, eventually, kubectl};
use tokio::task::JoinHandle;

use super::serve::{PROMPT, expected};
use super::steps::{HEAD, LONGEST_WAIT, NAMESPACE, WORKER, client_of, field, node_of, pods, serves};

/// Tokens of an answer that outlasts a fault.
const LONG: u32 = 700;

/// Starts long answers and lets them get going.
async fn streams() -> Result<Vec<JoinHandle<Result<Answer>>>> {
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut client = client_of(HEAD).await?;
        all.push(tokio::spawn(async move { Ok(client.generate(greedy(&PROMPT, LONG)).await?) }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(all)
}

async fn as_expected(streams: Vec<JoinHandle<Result<Answer>>>) -> Result<()> {
    let want = expected(LONG).await?;
    for stream in streams {
        let answer = stream.await?.context("an answer was lost")?;
        ensure!(answer.tokens == want, "an answer differs from the undisturbed one");
    }
    Ok(())
}

/// Returns the names of the pods that are new since `before`, or that have restarted.
pub fn changed(before: &[(String, String)]) -> Result<Vec<String>> {
    Ok(pods()?.into_iter().filter(|pod| !before.contains(pod)).map(|(name, _)| name).collect())
}

pub async fn a_worker_is_replaced_alone() -> Result<()> {
    let before = pods()?;
    let epoch: u64 = field(".status.groups[0].epoch")?.parse()?;
    let answers = streams().await?;
    kubectl(&["-n", NAMESPACE, "delete", "pod", WORKER, "--grace-period=0", "--force"])?;
    as_expected(answers).await?;
    eventually("the worker to be replaced", LONGEST_WAIT, || {
        let changed = changed(&before)?;
        ensure!(changed == [WORKER], "changed: {changed:?}");
        Ok(())
    })?;
    // The worker told the head that it leaves. So the head formed a new epoch between two steps, and counted no
    // recovery. The new epoch appears in the status after the pods have changed.
    eventually("a new epoch", LONGEST_WAIT, || {
        let now: u64 = field(".status.groups[0].epoch")?.parse()?;
        ensure!(now > epoch, "the group formed no new epoch: {now}");
        Ok(())
    })?;
    serves(1)?;
    ensure!(changed(&before)? == [WORKER], "others were restarted: {:?}", changed(&before)?);
    Ok(())
}

/// The kubelet would restart a worker that ends with its head after a pause that grows each time.
pub async fn a_deleted_head_costs_no_weights() -> Result<()> {
    let before = pods()?;
    for _ in 0..2 {
        let now = pods()?;
        kubectl(&["-n", NAMESPACE, "delete", "pod", HEAD])?;
        eventually("another head", LONGEST_WAIT, || {
            let changed = changed(&now)?;
            ensure!(changed == [HEAD], "changed: {changed:?}");
            Ok(())
        })?;
        serves(1)?;
        ensure!(client_of(HEAD).await?.generate(greedy(&PROMPT, 4)).await?.tokens.len() == 4);
    }
    ensure!(changed(&before)? == [HEAD], "others were restarted: {:?}", changed(&before)?);
    Ok(())
}

/// Drains a worker's node with kubectl. The disruption budget allows that even at one replica, because the group
/// survives the loss of a worker.
pub async fn a_drained_node_takes_no_request_with_it() -> Result<()> {
    let node = node_of("quickstart-0-worker-1")?;
    let answers = streams().await?;
    kubectl(&["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"])?;
    as_expected(answers).await?;
    serves(1)?;
    kubectl(&["uncordon", &node]).map(drop)
}

/// Cuts the power of a worker's node. The worker's pod is deleted by force, and made anew on a node that answers.
pub async fn a_node_without_power_costs_no_request() -> Result<()> {
    let head = node_of(HEAD)?;
    // The test is about a worker: the node does not run the head and, if possible, not the operator either.
    let operator = kubectl(&["-n", "lockstep-system", "get", "pods", "-o", "jsonpath={.items[0].spec.nodeName}"])?;
    let nodes = [node_of(WORKER)?, node_of("quickstart-0-worker-1")?];
    let worker = nodes.iter().find(|node| **node != head && **node != operator);
    let worker =
        worker.or_else(|| nodes.iter().find(|node| **node != head)).context("no worker has a node of its own")?;
    let dark = Node::named(worker)?;
    let answers = streams().await?;
    dark.power_off()?;
    let done = as_expected(answers).await;
    let again = serves(1);
    dark.power_on()?;
    dark.await_ready(true)?;
    done.and(again)?;
    ensure!(![node_of(WORKER)?, node_of("quickstart-0-worker-1")?].contains(worker), "a pod is still on {worker}");
    serves(1)
}

/// Cuts the power of the head's node. The workers say that they do not hear the head, and the operator replaces it before
/// Kubernetes evicts anything: that takes 20 seconds in this cluster, and then the grace period of 330 seconds.
pub fn a_head_without_power_is_replaced_in_seconds() -> Result<()> {
    const EVICTION: Duration = Duration::from_secs(20);
    let get = |path: &str| kubectl(&["-n", NAMESPACE, "get", "pod", HEAD, "-o", &format!("jsonpath={{{path}}}")]);
    let node = get(".spec.nodeName")?;
    move_operator_off(&node)?;
    serves(1)?;
    let (dark, uid) = (Node::named(&node)?, get(".metadata.uid")?);
    dark.power_off()?;
    let began = Instant::now();
    let replaced = eventually("another head", LONGEST_WAIT, || {
        let (other, at) = (get(".metadata.uid")?, get(".spec.nodeName")?);
        ensure!(other != uid && !at.is_empty() && at != node, "{other} on {at:?}");
        Ok(began.elapsed())
    });
    let again = serves(1).map(|()| began.elapsed());
    dark.power_on()?;
    dark.await_ready(true)?;
    let (replaced, again) = (replaced?, again?);
    eprintln!("another head after {replaced:.1?}, ready after {again:.1?}");
    ensure!(replaced < EVICTION, "the head was replaced after {replaced:.1?}");
    ensure!(get(".metadata.labels.lockstep\\.dev/heard")? == "true", "the new head is not in the Service");
    serves(1)
}

/// Makes sure that the operator that leads does not run on `node`.
pub fn move_operator_off(node: &str) -> Result<()> {
    let get = |kind: &str, path: &str| {
        kubectl(&["-n", "lockstep-system", "get", kind, "-o", &format!("jsonpath={{.items[*]{path}}}")])
    };
    if !get("pods", ".spec.nodeName")?.contains(node) {
        return Ok(());
    }
    kubectl(&["cordon", node])?;
    let moved = kubectl(&["-n", "lockstep-system", "delete", "pods", "--all"]).and_then(|_| {
        eventually("the operator to lead from another node", LONGEST_WAIT, || {
            let (name, at) = (get("pods", ".metadata.name")?, get("pods", ".spec.nodeName")?);
            let holder = get("leases", ".spec.holderIdentity")?;
            ensure!(!at.contains(node) && holder.starts_with(&name), "{name} is on {at:?}, and {holder} leads");
            Ok(())
        })
    });
    kubectl(&["uncordon", node])?;
    moved
}
