//! The operator as a process: it is killed, it runs twice, and it has nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::cluster::eventually;
use serde_json::Value;

use crate::world::{FAST, IMAGE, LONGEST_WAIT, Operator, World, title};

/// The leader is killed. The other operator takes the lease and goes on under the same name.
pub fn one_of_two_operators_leads() -> Result<()> {
    let mut world = World::new("leaders")?;
    let namespace = world.namespace.name().to_owned();
    world.operator.kill();
    let lease = ["--lease-name", "lockstep-test", "--pod-namespace", &namespace];
    world.operator = Operator::start(&namespace, IMAGE, &lease);
    world.eventually("the first to lead", || {
        ensure!(world.operator.leads()?, "it does not");
        Ok(())
    })?;
    let other = Operator::start(&namespace, IMAGE, &lease);
    world.apply("a", &format!("workers: 1, {FAST}"))?;
    world.await_settled("a")?;
    ensure!(!other.leads()?, "both lead");
    ensure!(other.metric("lockstep_operator_api_requests_total")? < 0.5, "the one that stands by makes requests");
    let before = world.pods("a")?;

    world.operator.kill();
    world.operator = other;
    world.kubectl(&["scale", "icl", "a", "--replicas=2"])?;
    // There is no leader until the lease has ended.
    eventually("the second to lead", Duration::from_secs(60), || {
        ensure!(world.operator.leads()?, "it does not");
        Ok(())
    })?;
    world.await_settled("a")?;
    let after = world.pods("a")?;
    ensure!(after.len() == 4 && before.iter().all(|(name, uid)| after.get(name) == Some(uid)), "{before:?} {after:?}");
    let kinds = "services,secrets,networkpolicies,poddisruptionbudgets,statefulsets";
    for object in world.list(kinds, "a")? {
        let fields = world.kubectl(&["get", &title(&object).to_lowercase(), "--show-managed-fields", "-o", "json"])?;
        let fields: Value = serde_json::from_str(&fields)?;
        let managers: BTreeSet<_> = fields["metadata"]["managedFields"]
            .as_array()
            .context("managed fields")?
            .iter()
            .filter(|entry| entry["subresource"] != "status")
            .filter_map(|entry| entry["manager"].as_str())
            .collect();
        ensure!(managers == BTreeSet::from(["lockstep"]), "{} is managed by {managers:?}", title(&object));
    }
    Ok(())
}

/// Stage of a rollout of two groups. Each stage holds from the moment at which it is reached.
struct Stage {
    name: &'static str,
    reached: fn(&World, &BTreeMap<String, String>) -> Result<bool>,
}

/// Stages in their order: group 1 comes first, then group 0.
const STAGES: [Stage; 6] = [
    Stage { name: "the spec changed", reached: |_, _| Ok(true) },
    Stage { name: "group 1 drains", reached: |world, old| Ok(drains(world, 1)? || set_is_new(world, 1, old)?) },
    Stage { name: "the sets of group 1 are new", reached: |world, old| set_is_new(world, 1, old) },
    Stage { name: "the head of group 1 is new", reached: |world, old| pod_is_new(world, "a-1-head-0", old) },
    Stage { name: "group 0 drains", reached: |world, old| Ok(drains(world, 0)? || set_is_new(world, 0, old)?) },
    Stage { name: "a worker of group 0 is new", reached: |world, old| pod_is_new(world, "a-0-worker-0", old) },
];

fn drains(world: &World, group: usize) -> Result<bool> {
    Ok(world.get("icl", "a")?["status"]["groups"][group]["drainingSince"].is_string())
}

/// Returns true if the head set's revision differs from that of every old pod.
fn set_is_new(world: &World, group: usize, old: &BTreeMap<String, String>) -> Result<bool> {
    let set = world.get("statefulset", &format!("a-{group}-head"))?;
    Ok(set["metadata"]["annotations"]["lockstep.dev/revision"] != old["revision"])
}

fn pod_is_new(world: &World, name: &str, old: &BTreeMap<String, String>) -> Result<bool> {
    let now = world.pods("a")?;
    Ok(now.get(name).is_some_and(|uid| old.get(name) != Some(uid)))
}

/// The operator is killed at each stage of a rollout in turn and started again. The rollout ends, no pod is left over,
/// and none is made twice.
pub fn a_rollout_ends_after_a_kill_at_each_stage() -> Result<()> {
    let mut world = World::new("killed")?;
    world.apply("a", &format!("workers: 1, replicas: 2, {FAST}"))?;
    world.await_settled("a")?;
    for (round, last) in [(1, STAGES.len()), (2, 1)] {
        let mut old = world.pods("a")?;
        let revision = &world.get("statefulset", "a-0-head")?["metadata"]["annotations"]["lockstep.dev/revision"];
        old.insert("revision".into(), revision.as_str().context("a revision")?.to_owned());
        world.change("a", &format!(r#"{{"spec": {{"env": [{{"name": "ROUND", "value": "{round}"}}]}}}}"#))?;
        for stage in &STAGES[..last] {
            world.eventually(stage.name, || {
                ensure!((stage.reached)(&world, &old)?, "not yet");
                Ok(())
            })?;
            world.restart(IMAGE);
        }
        world.eventually("all pods to be new", || {
            let now = world.pods("a")?;
            ensure!(now.len() == 4 && now.iter().all(|(name, uid)| old.get(name) != Some(uid)), "{old:?} {now:?}");
            Ok(())
        })?;
        world.await_settled("a")?;
        // Each pod was replaced once: the pods that appeared during the rollout are those that exist now.
        let revisions: BTreeSet<_> = world
            .list("pods", "a")?
            .iter()
            .map(|pod| pod["metadata"]["labels"]["lockstep.dev/revision"].to_string())
            .collect();
        ensure!(revisions.len() == 1 && !revisions.contains(&old["revision"]), "pods of {revisions:?}");
    }
    Ok(())
}

/// Each transition makes one event, and a steady cluster causes no request.
pub fn transitions_make_one_event_and_steady_clusters_no_request() -> Result<()> {
    let world = World::new("silence")?;
    world.apply("a", &format!("workers: 1, replicas: 2, {FAST}"))?;
    world.await_settled("a")?;
    world.change("a", r#"{"spec": {"env": [{"name": "A", "value": "1"}]}}"#)?;
    world.eventually("the rollout", || {
        let status = world.get("icl", "a")?["status"].clone();
        ensure!(status["updatedReplicas"] == 2 && status["readyReplicas"] == 2, "{status}");
        Ok(())
    })?;
    world.await_settled("a")?;
    let requests = settled(&world)?;
    let reconciles = world.operator.metric("lockstep_operator_reconciles_total")?;
    ensure!(requests > 10.0 && reconciles > 1.0, "{requests} requests, {reconciles} reconciliations: not counted?");
    let version = world.get("icl", "a")?["metadata"]["resourceVersion"].clone();
    std::thread::sleep(Duration::from_secs(10));
    let now = world.operator.metric("lockstep_operator_api_requests_total")?;
    ensure!(now - requests < 0.5, "{} requests in ten seconds without a change", now - requests);
    ensure!(world.get("icl", "a")?["metadata"]["resourceVersion"] == version, "the status was written again");
    ensure!(world.operator.metric("lockstep_operator_head_connections")? < 0.5, "heads are listened to for nothing");

    let events = count_events(&world)?;
    let count = |reason: &str| events.get(reason).copied().unwrap_or(0);
    // Two groups came up, were changed, and came up again.
    for (reason, most) in [("GroupCreating", 4), ("GroupDraining", 2), ("GroupUpdating", 2), ("GroupServing", 4)] {
        ensure!((1..=most).contains(&count(reason)), "{reason} has {} events: {events:?}", count(reason));
    }
    ensure!(events.values().sum::<u64>() <= 24, "{events:?}");
    Ok(())
}

/// Returns the number of the operator's requests so far, once three seconds pass without a request.
fn settled(world: &World) -> Result<f64> {
    let requests = || world.operator.metric("lockstep_operator_api_requests_total");
    world.eventually("the operator to come to rest", || {
        let before = requests()?;
        std::thread::sleep(Duration::from_secs(3));
        let now = requests()?;
        ensure!(now - before < 0.5, "{} requests in three seconds", now - before);
        Ok(now)
    })
}

/// Returns the number of events of each reason.
fn count_events(world: &World) -> Result<BTreeMap<String, u64>> {
    let selector = "--field-selector=involvedObject.name=a,involvedObject.kind=InferenceCluster";
    let events: Value = serde_json::from_str(&world.kubectl(&["get", "events", selector, "-o", "json"])?)?;
    let mut counts = BTreeMap::new();
    for event in events["items"].as_array().context("events")? {
        let again = event["series"]["count"].as_u64().or(event["count"].as_u64()).unwrap_or(1).max(1);
        *counts.entry(event["reason"].as_str().unwrap_or_default().to_owned()).or_default() += again;
    }
    ensure!(!counts.is_empty(), "no event is there after {} s", LONGEST_WAIT.as_secs());
    Ok(counts)
}
