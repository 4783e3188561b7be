//! The test cluster is a real Kubernetes: its names, faults of nodes, admission and fake GPUs behave like a cluster's.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::ListParams;
use kube::{Api, Client};
use lockstep_tests::cluster::{
    Namespace, Needs, Node, async_trial, eventually, fake_nodes, kubectl, main as run_inside, trial,
};

/// Longest time for a pod to be placed and to start on a busy machine.
const START: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let trials = vec![
        async_trial("three_nodes_are_ready", three_nodes_are_ready),
        trial("pods_of_a_set_find_each_other_by_name", pods_of_a_set_find_each_other_by_name),
        trial("pod_security_is_enforced", pod_security_is_enforced),
        trial("a_node_without_power_is_lost_and_comes_back", a_node_without_power_is_lost_and_comes_back),
        trial("a_node_without_wire_is_lost_and_comes_back", a_node_without_wire_is_lost_and_comes_back),
        trial("fake_nodes_take_pods_with_gpus_alone", fake_nodes_take_pods_with_gpus_alone),
    ];
    run_inside(Needs::nodes(3), trials)
}

/// StatefulSet of three pods `trio-0` to `trio-2`, one on each node.
const TRIO: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: trio}
spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: trio}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: trio}
spec:
  serviceName: trio
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: trio}}
  template:
    metadata: {labels: {app: trio}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: DoNotSchedule
          labelSelector: {matchLabels: {app: trio}}
      containers: [{name: sleep, image: "cluster.test/tools:1", command: [sleep, infinity]}]
"#;

/// Creates the set, and waits for its pods.
fn trio(namespace: &Namespace) -> Result<()> {
    namespace.apply(TRIO)?;
    await_trio(namespace)
}

fn await_trio(namespace: &Namespace) -> Result<()> {
    eventually("three pods to be ready", START, || {
        let ready = namespace.kubectl(&["get", "statefulset", "trio", "-o", "jsonpath={.status.readyReplicas}"])?;
        ensure!(ready == "3", "{ready} are");
        Ok(())
    })
}

fn field(namespace: &Namespace, pod: &str, path: &str) -> Result<String> {
    namespace.kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
}

async fn three_nodes_are_ready() -> Result<()> {
    let nodes: Api<NodeObject> = Api::all(Client::try_default().await.context("make a client")?);
    let names: Vec<_> =
        nodes.list(&ListParams::default()).await?.items.into_iter().map(|node| node.metadata.name).collect();
    for node in [1, 2, 3].map(Node) {
        ensure!(names.contains(&Some(node.name())), "{} is not among {names:?}", node.name());
        ensure!(node.is_ready()?, "{} is not ready", node.name());
    }
    Ok(())
}

fn pods_of_a_set_find_each_other_by_name() -> Result<()> {
    let namespace = Namespace::new("names")?;
    trio(&namespace)?;
    for (from, to) in [("trio-0", "trio-1"), ("trio-1", "trio-2"), ("trio-2", "trio-0")] {
        let name = format!("{to}.trio.{}.svc.cluster.local", namespace.name());
        let address = field(&namespace, to, ".status.podIP")?;
        eventually(&format!("{from} to find {to}"), START, || {
            let found = namespace.kubectl(&["exec", from, "--", "nslookup", "-type=a", &name])?;
            ensure!(found.contains(&address), "{address} is not in:\n{found}");
            Ok(())
        })?;
        namespace.kubectl(&["exec", from, "--", "ping", "-c1", "-W5", &format!("{to}.trio")])?;
    }
    Ok(())
}

fn pod_security_is_enforced() -> Result<()> {
    let namespace = Namespace::new("restricted")?;
    kubectl(&["label", "namespace", namespace.name(), "pod-security.kubernetes.io/enforce=restricted"])?;
    let error = namespace.kubectl(&["run", "root", "--image=cluster.test/tools:1", "--", "sleep", "1"]).err();
    let error = error.context("a pod that may run as root was taken")?.to_string();
    ensure!(error.contains("violates PodSecurity"), "{error}");
    Ok(())
}

fn a_node_without_power_is_lost_and_comes_back() -> Result<()> {
    let namespace = Namespace::new("power")?;
    trio(&namespace)?;
    let node = Node(3);
    let pods = namespace.kubectl(&["get", "pods", "--field-selector=spec.nodeName=node3", "-o", "name"])?;
    node.power_off()?;
    node.await_ready(false)?;
    node.power_on()?;
    node.await_ready(true)?;
    eventually("the node's pods to be started again", START, || {
        let restarts =
            namespace.kubectl(&["get", &pods, "-o", "jsonpath={.status.containerStatuses[0].restartCount}"])?;
        ensure!(restarts != "0", "{pods} was not");
        Ok(())
    })?;
    await_trio(&namespace)
}

fn a_node_without_wire_is_lost_and_comes_back() -> Result<()> {
    let namespace = Namespace::new("wire")?;
    trio(&namespace)?;
    let node = Node(2);
    node.cut()?;
    node.await_ready(false)?;
    node.mend()?;
    node.await_ready(true)?;
    await_trio(&namespace)?;
    let restarts =
        namespace.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}"])?;
    ensure!(restarts == "0 0 0", "pods were started again for a cut wire: {restarts}");
    Ok(())
}

fn fake_nodes_take_pods_with_gpus_alone() -> Result<()> {
    let namespace = Namespace::new("gpus")?;
    fake_nodes(2)?;
    let pod = |name: &str, limits: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  \
             containers: [{{name: main, image: 'cluster.test/pause:1', resources: {{limits: {limits}}}}}]"
        )
    };
    namespace.apply(&pod("wide", "{nvidia.com/gpu: 8}"))?;
    namespace.apply(&pod("too-wide", "{nvidia.com/gpu: 9}"))?;
    namespace.apply(&pod("none", "{}"))?;
    for (name, wanted) in [("wide", "Running on fake-"), ("none", "Running on node"), ("too-wide", "Pending on ")] {
        eventually(&format!("pod {name} to be {wanted}"), START, || {
            let phase = field(&namespace, name, ".status.phase")?;
            let seen = format!("{phase} on {}", field(&namespace, name, ".spec.nodeName")?);
            ensure!(seen.starts_with(wanted), "it is {seen}");
            Ok(())
        })?;
    }
    Ok(())
}
