//! Objects that the operator makes, their order, and its reports if it cannot make them.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::cluster::kubectl;
use serde_json::Value;

use crate::world::{FAST, IMAGE, World, group_pods, name_of, title};

/// Every kind that a cluster can own is made, and nothing else, with the cluster as its controller.
pub fn every_object_is_owned() -> Result<()> {
    let world = World::new("owned")?;
    let before = world.everything()?;
    let spec = "workers: 2, service: { type: NodePort, annotations: { a: b } }, \
                modelCache: { size: 1Gi }, autoscaling: { maxReplicas: 2 }, placement: { policy: Pack }";
    world.apply("whole", spec)?;
    let wanted: BTreeSet<String> = [
        "Service/whole",
        "Service/whole-0",
        "Secret/whole-ca",
        "Secret/whole-head-tls",
        "Secret/whole-node-tls",
        "PersistentVolumeClaim/whole-models",
        "NetworkPolicy/whole-0",
        "PodDisruptionBudget/whole-0",
        "HorizontalPodAutoscaler/whole",
        "StatefulSet/whole-0-head",
        "StatefulSet/whole-0-worker",
    ]
    .map(str::to_owned)
    .into();
    let kinds = "services,secrets,persistentvolumeclaims,networkpolicies,poddisruptionbudgets,\
                 horizontalpodautoscalers,statefulsets";
    let made = world.eventually("all objects", || {
        let made = world.list(kinds, "whole")?;
        let titles: BTreeSet<_> = made.iter().map(title).collect();
        ensure!(titles == wanted, "there are {titles:?}");
        Ok(made)
    })?;
    let uid = world.get("icl", "whole")?["metadata"]["uid"].clone();
    for object in &made {
        let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        ensure!(owners.len() == 1 && owners[0]["uid"] == uid && owners[0]["controller"] == true, "{}", title(object));
        let labels = &object["metadata"]["labels"];
        ensure!(labels["app.kubernetes.io/managed-by"] == "lockstep", "{}: {labels}", title(object));
        ensure!(labels["app.kubernetes.io/instance"] == "whole", "{}: {labels}", title(object));
    }
    world.eventually("three pods", || {
        let pods = world.pods("whole")?.into_keys().collect::<Vec<_>>();
        ensure!(pods == ["whole-0-head-0", "whole-0-worker-0", "whole-0-worker-1"], "{pods:?}");
        Ok(())
    })?;
    let rest: Vec<_> = world.everything()?.difference(&before).filter(|name| !is_made(name)).cloned().collect();
    ensure!(rest.is_empty(), "the operator made more than it should: {rest:?}");
    Ok(())
}

/// Returns true for objects that the test lists itself, and for those that Kubernetes' own controllers make of them.
fn is_made(name: &str) -> bool {
    let kinds = [
        "service/whole",
        "secret/whole-",
        "persistentvolumeclaim/whole-models",
        "networkpolicy.networking.k8s.io/whole-0",
        "poddisruptionbudget.policy/whole-0",
        "horizontalpodautoscaler.autoscaling/whole",
        "statefulset.apps/whole-0-",
        "controllerrevision.apps/whole-0-",
        "pod/whole-0-",
        "endpoints/whole",
        "endpointslice.discovery.k8s.io/whole",
        "inferencecluster.lockstep.dev/whole",
    ];
    kinds.iter().any(|kind| name.starts_with(kind))
}

/// A group without room holds back the next group. Status and events quote the scheduler.
pub fn groups_are_created_one_at_a_time() -> Result<()> {
    let world = World::new("order")?;
    // Two of three pods that ask for 40 of 64 processors fit on two nodes: those of the first group.
    world.apply("big", &format!("replicas: 3, workers: 1, resources: {{ requests: {{ cpu: 40 }} }}, {FAST}"))?;
    let message = world.await_condition("big", "Degraded", "True", "InsufficientResources")?;
    ensure!(message.contains("big-1-") && message.contains("Insufficient cpu"), "{message}");
    // The operator has reconciled the cluster many times by now.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let sets: BTreeSet<_> = world.list("statefulsets", "big")?.iter().map(name_of).collect();
    let first_two = ["big-0-head", "big-0-worker", "big-1-head", "big-1-worker"].map(str::to_owned).into();
    ensure!(sets == first_two, "{sets:?}");
    let groups = world.get("icl", "big")?["status"]["groups"].clone();
    ensure!(groups[0]["ready"] == true && groups[1]["ready"] == false, "{groups}");
    ensure!(groups[2]["phase"] == "Pending", "{groups}");
    // The first group leaves, so that there is room.
    world.change("big", r#"{"spec": {"replicas": 1}}"#)?;
    world.await_settled("big")?;
    let sets: BTreeSet<_> = world.list("statefulsets", "big")?.iter().map(name_of).collect();
    ensure!(sets == ["big-0-head", "big-0-worker"].map(str::to_owned).into(), "{sets:?}");
    // Small groups wait for the group before them only until its pods have nodes.
    world.apply("small", &format!("replicas: 3, workers: 1, {FAST}"))?;
    world.await_settled("small")?;
    let pods = world.list("pods", "small")?;
    ensure!(pods.len() == 6, "{} pods", pods.len());
    for group in 1..3 {
        let before = group_pods(&pods, group - 1).map(scheduled).max().flatten().context("scheduled")?;
        let created = group_pods(&pods, group).filter_map(|pod| pod["metadata"]["creationTimestamp"].as_str()).min();
        ensure!(created.is_some_and(|created| created >= before.as_str()), "group {group}: {created:?} < {before}");
    }
    Ok(())
}

/// Returns the time at which a pod got its node.
fn scheduled(pod: &Value) -> Option<String> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == "PodScheduled")?;
    condition["lastTransitionTime"].as_str().map(str::to_owned)
}

/// Objects of others stay theirs, and the status names the object that is in the way.
pub fn objects_of_others_are_left_alone() -> Result<()> {
    let world = World::new("names")?;
    let foreign = "
apiVersion: v1
kind: Service
metadata: { name: front }
spec: { selector: { app: other }, ports: [{ name: grpc, port: 50051 }] }
---
apiVersion: v1
kind: Secret
metadata: { name: secret-ca }
stringData: { precious: value }
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: cache-models }
spec: { accessModes: [ReadWriteMany], resources: { requests: { storage: 1Gi } } }
";
    world.namespace.apply(foreign)?;
    let theirs = [("service", "front"), ("secret", "secret-ca"), ("pvc", "cache-models")];
    let before = theirs.map(|(kind, name)| world.get(kind, name));
    world.apply("front", FAST)?;
    world.apply("secret", FAST)?;
    world.apply("cache", &format!("modelCache: {{ size: 1Gi }}, {FAST}"))?;
    for (cluster, name) in [("front", "Service front"), ("secret", "Secret secret-ca"), ("cache", "cache-models")] {
        let message = world.await_condition(cluster, "Degraded", "True", "NameTaken")?;
        ensure!(message.contains(name), "{message}");
        let (ready, reason, _) = world.condition(cluster, "Ready")?;
        ensure!(ready == "False" && reason == "NameTaken", "{cluster} is {ready} for {reason}");
    }
    for ((kind, name), before) in theirs.into_iter().zip(before) {
        let (mut before, mut now) = (before?, world.get(kind, name)?);
        // Kubernetes' own controllers may write a status.
        for object in [&mut before, &mut now] {
            object.as_object_mut().map(|fields| fields.remove("status"));
            for field in ["resourceVersion", "managedFields"] {
                object["metadata"].as_object_mut().map(|fields| fields.remove(field));
            }
        }
        ensure!(before == now, "{kind} {name} was changed:\n{before}\n{now}");
    }
    // The object is gone, and the operator goes on by itself.
    world.kubectl(&["delete", "service", "front"])?;
    world.await_settled("front")
}

/// `a-0` has the name of the first group of `a`. The second cluster is refused, and the first one is not disturbed.
pub fn a_cluster_with_the_name_of_a_group_is_refused() -> Result<()> {
    let world = World::new("twins")?;
    world.apply("a", FAST)?;
    world.await_settled("a")?;
    let (pods, service) = (world.pods("a")?, world.get("service", "a-0")?);
    world.apply("a-0", FAST)?;
    let message = world.await_condition("a-0", "Degraded", "True", "NameTaken")?;
    ensure!(message.contains("a-0"), "{message}");
    ensure!(world.get("service", "a-0")?["metadata"]["uid"] == service["metadata"]["uid"], "the Service was replaced");
    ensure!(world.get("service", "a-0")?["spec"] == service["spec"], "the Service was changed");
    ensure!(world.pods("a")? == pods, "pods of the first were replaced");
    world.await_settled("a")
}

/// The status quotes Kubernetes' own messages about a quota, and about a resource that no node has.
pub fn refusals_of_kubernetes_are_reported() -> Result<()> {
    let world = World::new("refused")?;
    world.kubectl(&["create", "quota", "pods", "--hard=pods=1"])?;
    world.apply("quota", &format!("workers: 1, {FAST}"))?;
    let message = world.await_condition("quota", "Degraded", "True", "QuotaExceeded")?;
    ensure!(message.contains("exceeded quota: pods"), "{message}");
    let (ready, reason, _) = world.condition("quota", "Ready")?;
    ensure!(ready == "False" && reason == "QuotaExceeded", "it is {ready} for {reason}");
    let table = world.kubectl(&["get", "icl", "quota"])?;
    ensure!(table.contains("QuotaExceeded") && table.contains("0/1"), "{table}");
    world.kubectl(&["delete", "quota", "pods"])?;
    world.await_settled("quota")?;
    world.apply("device", "resources: { limits: { example.com/none: 1 } }")?;
    let message = world.await_condition("device", "Degraded", "True", "InsufficientResources")?;
    ensure!(message.contains("Insufficient example.com/none"), "{message}");
    // The container has no name, so the API server refuses the pod template. The status quotes it.
    world.apply("overlay", "head: { spec: { containers: [{ name: '' }] } }")?;
    world.eventually("a word about the overlay", || {
        let (_, reason, message) = world.condition("overlay", "Ready")?;
        ensure!(["ApiServerRefused", "InvalidSpec"].contains(&reason.as_str()), "{reason}: {message}");
        ensure!(message.contains("name"), "{message}");
        Ok(())
    })
}

/// Pods of every shape meet the `restricted` standard.
pub fn a_restricted_namespace_takes_the_pods() -> Result<()> {
    let world = World::new("restricted")?;
    let level = "pod-security.kubernetes.io/enforce=restricted";
    kubectl(&["label", "namespace", world.namespace.name(), level])?;
    world.apply("cpu", &format!("workers: 1, {FAST}"))?;
    world.apply("gpu", &format!("backend: Nccl, {FAST}"))?;
    world.await_settled("cpu")?;
    world.await_settled("gpu")
}

/// CRD of the Prometheus operator's kind, as far as an API server needs it.
const POD_MONITORS: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: podmonitors.monitoring.coreos.com }
spec:
  group: monitoring.coreos.com
  names: { kind: PodMonitor, plural: podmonitors }
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: { openAPIV3Schema: { type: object, x-kubernetes-preserve-unknown-fields: true } }
";

/// An operator that finds the kind makes a PodMonitor for each cluster, and makes it again if it is deleted.
pub fn a_pod_monitor_is_made_where_the_kind_exists() -> Result<()> {
    let mut world = World::new("monitored")?;
    world.namespace.apply(POD_MONITORS)?;
    let tried = (|| {
        kubectl(&["wait", "--for=condition=Established", "crd/podmonitors.monitoring.coreos.com", "--timeout=30s"])?;
        world.eventually("the kind to be served", || world.kubectl(&["get", "podmonitors"]).map(drop))?;
        world.restart(IMAGE);
        world.apply("seen", FAST)?;
        let made = world.eventually("a PodMonitor", || world.get("podmonitor", "seen"))?;
        let selected = &made["spec"]["selector"]["matchLabels"]["lockstep.dev/cluster"];
        ensure!(selected == "seen", "it selects {}", made["spec"]["selector"]);
        world.kubectl(&["delete", "podmonitor", "seen"])?;
        let again = world.eventually("another", || world.get("podmonitor", "seen"))?;
        ensure!(again["metadata"]["uid"] != made["metadata"]["uid"], "it was not deleted");
        world.await_settled("seen")
    })();
    kubectl(&["delete", "crd", "podmonitors.monitoring.coreos.com"])?;
    tried
}
