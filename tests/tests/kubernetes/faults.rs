//! Pods and nodes die while answers stream.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::client::{Answer, greedy};
use lockstep_tests::cluster::{Node, eventually, kubectl};
use tokio::task::JoinHandle;

use super::serve::{PROMPT, expected};
use super::steps::{LONGEST_WAIT, NAMESPACE, client_of_head, field, pods, serves};

/// Tokens of an answer that outlasts a fault.
const LONG: u32 = 700;

/// Starts long answers and lets them get going.
async fn streams() -> Result<Vec<JoinHandle<Result<Answer>>>> {
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut client = client_of_head().await?;
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
fn changed(before: &[(String, String)]) -> Result<Vec<String>> {
    Ok(pods()?.into_iter().filter(|pod| !before.contains(pod)).map(|(name, _)| name).collect())
}

pub async fn a_worker_is_replaced_alone() -> Result<()> {
    let before = pods()?;
    let epoch: u64 = field(".status.groups[0].epoch")?.parse()?;
    let answers = streams().await?;
    kubectl(&["-n", NAMESPACE, "delete", "pod", "quickstart-0-worker-0", "--grace-period=0", "--force"])?;
    as_expected(answers).await?;
    eventually("the worker to be replaced", LONGEST_WAIT, || {
        let changed = changed(&before)?;
        ensure!(changed == ["quickstart-0-worker-0"], "changed: {changed:?}");
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
    ensure!(changed(&before)? == ["quickstart-0-worker-0"], "others were restarted: {:?}", changed(&before)?);
    Ok(())
}

/// The kubelet would restart a worker that ends with its head after a pause that grows each time.
pub async fn a_deleted_head_costs_no_weights() -> Result<()> {
    const HEAD: &str = "quickstart-0-head-0";
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
        ensure!(client_of_head().await?.generate(greedy(&PROMPT, 4)).await?.tokens.len() == 4);
    }
    ensure!(changed(&before)? == [HEAD], "others were restarted: {:?}", changed(&before)?);
    Ok(())
}

/// Drains a worker's node with kubectl. The disruption budget allows that even at one replica, because the group
/// survives the loss of a worker.
pub async fn a_drained_node_takes_no_request_with_it() -> Result<()> {
    let path = "jsonpath={.spec.nodeName}";
    let node = kubectl(&["-n", NAMESPACE, "get", "pod", "quickstart-0-worker-1", "-o", path])?;
    let answers = streams().await?;
    kubectl(&["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=90s"])?;
    as_expected(answers).await?;
    serves(1)?;
    kubectl(&["uncordon", &node]).map(drop)
}

/// Cuts the power of a worker's node. The worker's pod is deleted by force, and made anew on a node that answers.
pub async fn a_node_without_power_costs_no_request() -> Result<()> {
    let on = |pod: &str| kubectl(&["-n", NAMESPACE, "get", "pod", pod, "-o", "jsonpath={.spec.nodeName}"]);
    let head = on("quickstart-0-head-0")?;
    // The test is about a worker: the node does not run the head and, if possible, not the operator either.
    let operator = kubectl(&["-n", "lockstep-system", "get", "pods", "-o", "jsonpath={.items[0].spec.nodeName}"])?;
    let nodes = [on("quickstart-0-worker-0")?, on("quickstart-0-worker-1")?];
    let worker = nodes.iter().find(|node| **node != head && **node != operator);
    let worker =
        worker.or_else(|| nodes.iter().find(|node| **node != head)).context("no worker has a node of its own")?;
    let number = worker.trim_start_matches("node").parse()?;
    let answers = streams().await?;
    Node(number).power_off()?;
    let done = as_expected(answers).await;
    let again = serves(1);
    Node(number).power_on()?;
    Node(number).await_ready(true)?;
    done.and(again)?;
    ensure!(
        ![on("quickstart-0-worker-0")?, on("quickstart-0-worker-1")?].contains(worker),
        "a pod is still on {worker}"
    );
    serves(1)
}
