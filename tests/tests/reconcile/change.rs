//! Changes after a cluster is up: by its users, by others, and without either.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::world::{FAST, IMAGE, World, group_pods, name_of, title};

/// Kinds that a cluster owns, except pods.
const OWNED: &str = "services,secrets,networkpolicies,poddisruptionbudgets,statefulsets";

/// The operator restores what others changed or deleted, and restarts no pod without need.
pub fn changes_by_others_are_undone() -> Result<()> {
    let world = World::new("drift")?;
    world.apply("a", &format!("workers: 1, {FAST}"))?;
    world.await_settled("a")?;
    let (pods, before) = (world.pods("a")?, specs(&world)?);
    let edits: [&[&str]; 6] = [
        &[
            "patch",
            "service",
            "a",
            "--type=json",
            "-p",
            r#"[{"op": "replace", "path": "/spec/ports/0/port", "value": 9}]"#,
        ],
        &["label", "service", "a-0", "--overwrite", "app.kubernetes.io/instance=other"],
        &["label", "networkpolicy", "a-0", "app.kubernetes.io/managed-by-"],
        &["patch", "networkpolicy", "a-0", "--type=merge", "-p", r#"{"spec": {"ingress": []}}"#],
        &["patch", "pdb", "a-0", "--type=merge", "-p", r#"{"spec": {"maxUnavailable": 7}}"#],
        &["annotate", "statefulset", "a-0-head", "lockstep.dev/applied-"],
    ];
    for edit in edits {
        world.kubectl(edit)?;
        comes_back(&world, &before, &edit.join(" "))?;
    }
    for (kind, name) in [
        ("service", "a"),
        ("service", "a-0"),
        ("networkpolicy", "a-0"),
        ("pdb", "a-0"),
        ("secret", "a-node-tls"),
        ("secret", "a-head-tls"),
    ] {
        let uid = world.get(kind, name)?["metadata"]["uid"].clone();
        world.kubectl(&["delete", kind, name, "--wait=false"])?;
        world.eventually(&format!("{kind} {name} to be made again"), || {
            ensure!(world.get(kind, name)?["metadata"]["uid"] != uid, "it is the old one");
            Ok(())
        })?;
        comes_back(&world, &before, &format!("delete {kind} {name}"))?;
    }
    ensure!(world.pods("a")? == pods, "pods were replaced: {:?} by {:?}", pods, world.pods("a")?);
    // A set that somebody scaled by hand makes its pods again.
    world.kubectl(&["scale", "statefulset", "a-0-worker", "--replicas=0"])?;
    world.eventually("the worker to be another", || {
        let now = world.pods("a")?;
        let worker = now.get("a-0-worker-0").context("no worker")?;
        ensure!(worker != &pods["a-0-worker-0"], "it is the same");
        ensure!(now["a-0-head-0"] == pods["a-0-head-0"], "the head was replaced");
        Ok(())
    })?;
    world.await_settled("a")
}

/// Returns the spec and the labels of each owned object, and the keys of each Secret.
fn specs(world: &World) -> Result<BTreeMap<String, Value>> {
    let content = |mut object: Value| {
        let keys = object["data"].as_object().map(|data| data.keys().cloned().collect::<Vec<_>>());
        // Kubernetes gives a new Service another address.
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.retain(|field, _| !field.starts_with("clusterIP"));
        }
        let labels = object["metadata"]["labels"].clone();
        (title(&object), serde_json::json!([object["spec"], labels, keys]))
    };
    Ok(world.list(OWNED, "a")?.into_iter().map(content).collect())
}

fn comes_back(world: &World, before: &BTreeMap<String, Value>, what: &str) -> Result<()> {
    world.eventually(&format!("`{what}` to be undone"), || {
        let now = specs(world)?;
        let missing: Vec<_> = before.keys().filter(|name| !now.contains_key(*name)).collect();
        ensure!(missing.is_empty(), "{missing:?} are missing");
        for (name, content) in before {
            ensure!(&now[name] == content, "{name} is {}, not {content}", now[name]);
        }
        Ok(())
    })
}

/// The rollout goes from the highest index down: each group follows when the one before it serves again. `partition`
/// holds the lower ones back.
pub fn a_change_rolls_group_by_group() -> Result<()> {
    let world = World::new("roll")?;
    let spec = "workers: 1, replicas: 3";
    world.apply("a", &format!("{spec}, {FAST}"))?;
    world.await_settled("a")?;
    let first = world.pods("a")?;
    world.change("a", r#"{"spec": {"env": [{"name": "A", "value": "1"}], "updateStrategy": {"partition": 2}}}"#)?;
    world.eventually("the group above the partition to be updated", || {
        let status = world.get("icl", "a")?["status"].clone();
        ensure!(status["updatedReplicas"] == 1 && status["readyReplicas"] == 3, "{status}");
        Ok(())
    })?;
    world.await_settled("a")?;
    let second = world.pods("a")?;
    let kept = |group: &str| {
        first.iter().filter(|(name, _)| name.starts_with(group)).all(|pod| second.get(pod.0) == Some(pod.1))
    };
    ensure!(kept("a-0-") && kept("a-1-"), "groups below the partition were replaced: {first:?} {second:?}");
    ensure!(first["a-2-head-0"] != second["a-2-head-0"], "the head of group 2 is the old one");
    ensure!(first["a-2-worker-0"] != second["a-2-worker-0"], "the worker of group 2 is the old one");

    world.change("a", r#"{"spec": {"env": [{"name": "A", "value": "2"}], "updateStrategy": {"partition": 0}}}"#)?;
    world.eventually("all groups to be updated", || {
        let now = world.pods("a")?;
        ensure!(
            now.len() == 6 && second.iter().all(|(name, uid)| now.get(name).is_some_and(|new| new != uid)),
            "{now:?}"
        );
        Ok(())
    })?;
    world.await_settled("a")?;
    let pods = world.list("pods", "a")?;
    let revisions: BTreeSet<_> =
        pods.iter().map(|pod| pod["metadata"]["labels"]["lockstep.dev/revision"].to_string()).collect();
    ensure!(revisions.len() == 1, "pods of {revisions:?}");
    for group in [1, 2] {
        let served = group_pods(&pods, group).filter_map(ready_since).max().context("readiness")?;
        let next = group_pods(&pods, group - 1).filter_map(|pod| pod["metadata"]["creationTimestamp"].as_str()).min();
        ensure!(next.is_some_and(|next| next >= served.as_str()), "group {} went before {group} served", group - 1);
    }
    Ok(())
}

fn ready_since(pod: &Value) -> Option<String> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let condition =
        conditions.iter().find(|condition| condition["type"] == "Ready" && condition["status"] == "True")?;
    condition["lastTransitionTime"].as_str().map(str::to_owned)
}

/// Replicas, the Service, the NetworkPolicy, the update strategy, or an operator with another image: none of these
/// changes restarts a pod.
pub fn changes_that_pods_do_not_see_restart_none() -> Result<()> {
    let mut world = World::new("quiet")?;
    world.apply("a", &format!("workers: 1, {FAST}"))?;
    world.await_settled("a")?;
    let before = world.pods("a")?;
    for patch in [
        r#"{"spec": {"service": {"type": "NodePort", "annotations": {"a": "b"}}}}"#,
        r#"{"spec": {"clients": {"from": "Namespace"}}}"#,
        r#"{"spec": {"updateStrategy": {"maxUnavailable": 2}, "restartBudget": 3}}"#,
        r#"{"spec": {"replicas": 2}}"#,
        r#"{"metadata": {"labels": {"team": "x"}, "annotations": {"note": "y"}}}"#,
    ] {
        world.change("a", patch)?;
        world.await_settled("a")?;
        unchanged(&world, &before).with_context(|| patch.to_owned())?;
    }
    ensure!(world.get("service", "a")?["spec"]["type"] == "NodePort", "the Service was not changed");
    let all = world.pods("a")?;
    world.restart("registry.example/agent:2");
    world.eventually("the new operator to lead", || {
        ensure!(world.operator.leads()?, "it does not");
        Ok(())
    })?;
    // A new cluster gets the new image, so the operator has seen all clusters by then.
    world.apply("b", FAST)?;
    world.await_settled("b")?;
    world.await_settled("a")?;
    unchanged(&world, &all)?;
    let image = |pod: &str| -> Result<Value> { Ok(world.get("pod", pod)?["spec"]["containers"][0]["image"].clone()) };
    ensure!(image("a-0-head-0")? == IMAGE, "{}", image("a-0-head-0")?);
    ensure!(image("b-0-head-0")? == "registry.example/agent:2", "{}", image("b-0-head-0")?);
    // A dead pod is replaced by a pod of its group's image, because ranks of two versions do not form a group.
    world.kubectl(&["delete", "pod", "a-0-worker-0", "--wait=false"])?;
    world.eventually("the worker to be another", || {
        ensure!(world.pods("a")?.get("a-0-worker-0").is_some_and(|uid| uid != &all["a-0-worker-0"]), "it is not");
        Ok(())
    })?;
    world.await_settled("a")?;
    ensure!(image("a-0-worker-0")? == IMAGE, "{}", image("a-0-worker-0")?);
    Ok(())
}

fn unchanged(world: &World, before: &BTreeMap<String, String>) -> Result<()> {
    let now = world.pods("a")?;
    let kept = before.iter().all(|(name, uid)| now.get(name) == Some(uid));
    ensure!(kept, "pods were replaced: {before:?} by {now:?}");
    Ok(())
}

/// Groups are added and removed whole, the highest index first.
pub fn scaling_adds_and_removes_whole_groups() -> Result<()> {
    let world = World::new("scale")?;
    world.apply("a", &format!("workers: 1, {FAST}"))?;
    world.await_settled("a")?;
    let one = world.pods("a")?;
    world.kubectl(&["scale", "icl", "a", "--replicas=3"])?;
    world.await_settled("a")?;
    let three = world.pods("a")?;
    ensure!(three.len() == 6, "{three:?}");
    unchanged(&world, &one)?;
    world.kubectl(&["scale", "icl", "a", "--replicas=1"])?;
    world.await_settled("a")?;
    world.eventually("the other groups' objects to be gone", || {
        let rest: Vec<_> = world
            .list(&format!("{OWNED},pods"), "a")?
            .iter()
            .filter(|object| {
                object["metadata"]["labels"]["lockstep.dev/group"].as_str().is_some_and(|group| group != "0")
            })
            .map(title)
            .collect();
        ensure!(rest.is_empty(), "{rest:?}");
        Ok(())
    })?;
    unchanged(&world, &one)?;
    world.kubectl(&["scale", "icl", "a", "--replicas=0"])?;
    world.await_condition("a", "Ready", "False", "ScaledToZero")?;
    world.await_settled("a")?;
    world.eventually("all pods to be gone", || {
        let pods = world.pods("a")?;
        ensure!(pods.is_empty(), "{pods:?}");
        Ok(())
    })?;
    ensure!(world.get("service", "a")?["metadata"]["name"] == "a", "the clients' Service is gone");
    world.kubectl(&["scale", "icl", "a", "--replicas=1"])?;
    world.await_settled("a")
}

/// Clusters are deleted in any order, half made, with and without an operator. Nothing is left.
pub fn deletion_leaves_nothing() -> Result<()> {
    let mut world = World::new("deletion")?;
    let before = world.everything()?;
    let gone = |world: &World| {
        world.eventually("everything to be gone", || {
            let rest: Vec<_> = world.everything()?.difference(&before).cloned().collect();
            ensure!(rest.is_empty(), "{rest:?}");
            Ok(())
        })
    };
    let spec = format!("workers: 1, replicas: 2, {FAST}");
    world.apply("a", &spec)?;
    world.await_settled("a")?;
    world.kubectl(&["delete", "icl", "a"])?;
    gone(&world).context("a settled cluster")?;
    // The cluster is deleted as soon as its first objects exist, and created again under the same name.
    for kind in ["service/a", "statefulset/a-0-head", "pod/a-1-head-0"] {
        world.apply("a", &spec)?;
        world.eventually(kind, || world.kubectl(&["get", kind]).map(drop))?;
        world.kubectl(&["delete", "icl", "a"])?;
    }
    gone(&world).context("half-made clusters")?;
    // The parts are deleted first, then the cluster.
    world.apply("a", &spec)?;
    world.await_settled("a")?;
    world.kubectl(&["delete", "statefulset,secret,service", "-l", "lockstep.dev/cluster=a", "--wait=false"])?;
    world.kubectl(&["delete", "icl", "a", "--wait=false"])?;
    gone(&world).context("a cluster whose parts went first")?;
    // The cluster is deleted while no operator runs.
    world.apply("a", &spec)?;
    world.await_settled("a")?;
    world.operator.kill();
    world.kubectl(&["delete", "icl", "a"])?;
    gone(&world).context("a cluster without an operator")?;
    world.restart(IMAGE);
    world.apply("b", FAST)?;
    world.await_settled("b")?;
    let names: BTreeSet<_> = world.list(OWNED, "a")?.iter().map(name_of).collect();
    ensure!(names.is_empty(), "the new operator made {names:?} of a cluster that is gone");
    Ok(())
}
