//! The campaign on real pods: what each fault costs the clients of a cluster. `make faults` runs it.

mod losses;
mod pauses;

pub use losses::two_groups_lose_nothing;
pub use pauses::each_fault_costs_seconds;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use lockstep_tests::cluster::{Node, eventually, kubectl};

use super::faults::{changed, move_operator_off};
use super::steps::{HEAD, LONGEST_WAIT, NAMESPACE, QUICKSTART, WORKER, node_of, pods, serves};

/// Time after the cluster is ready again for which clients still ask, so that a late loss shows.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// A fault that was made.
struct Begun {
    /// Names of the pods that the fault replaces.
    replaced: Vec<String>,
    /// Node without power, if that is the fault.
    node: Option<Node>,
}

fn delete(pod: &str) -> Result<Begun> {
    kubectl(&["-n", NAMESPACE, "delete", "pod", "--wait=false", pod])?;
    Ok(Begun { replaced: vec![pod.to_owned()], node: None })
}

fn change_environment() -> Result<Begun> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let patch = format!("{{\"spec\":{{\"env\":[{{\"name\":\"CHANGED\",\"value\":\"{now}\"}}]}}}}");
    kubectl(&["-n", NAMESPACE, "patch", "icl", QUICKSTART, "--type", "merge", "-p", &patch])?;
    Ok(Begun { replaced: pods()?.into_iter().map(|(pod, _)| pod).collect(), node: None })
}

fn power_off(pod: &str) -> Result<Begun> {
    let node = Node::named(&node_of(pod)?)?;
    node.power_off()?;
    let there = format!("spec.nodeName={}", node.name());
    let names = kubectl(&["-n", NAMESPACE, "get", "pods", "--field-selector", &there, "-o", "name"])?;
    let replaced = names.lines().map(|name| name.trim_start_matches("pod/").to_owned()).collect();
    Ok(Begun { replaced, node: Some(node) })
}

/// Makes sure that the operator runs on no node that a fault will hit.
fn spare_the_operator(groups: usize) -> Result<()> {
    for pod in [HEAD, WORKER] {
        move_operator_off(&node_of(pod)?)?;
    }
    serves(groups)
}

/// Makes a fault, waits until the cluster serves again with new pods, and gives the node its power back. Returns the pods
/// that changed although the fault did not touch them.
async fn suffer(begin: fn() -> Result<Begun>, groups: usize) -> Result<Vec<String>> {
    let before = pods()?;
    let Begun { replaced, node } = begin()?;
    let again = eventually("the pods to be replaced", LONGEST_WAIT, || {
        let now = changed(&before)?;
        ensure!(replaced.iter().all(|pod| now.contains(pod)), "changed: {now:?}");
        Ok(())
    })
    .and_then(|()| serves(groups));
    tokio::time::sleep(AFTERWARDS).await;
    if let Some(node) = node {
        node.power_on()?;
        node.await_ready(true)?;
    }
    again?;
    Ok(changed(&before)?.into_iter().filter(|pod| !replaced.contains(pod)).collect())
}
