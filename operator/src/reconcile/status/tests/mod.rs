//! What is said of clusters in each state, and that it is said once.

mod faults;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};
use serde_json::{Value, json};

use super::events::news;
use super::*;
use crate::heads::Report;
use crate::reconcile::dereference::GroupSeen;
use crate::reconcile::groups::decide;
use crate::reconcile::validate::{Defaults, validate};
use crate::resource::status::GroupPhase;
use crate::resource::testing;

fn object(spec: &str) -> InferenceCluster {
    let mut object = testing::cluster(spec);
    object.metadata.generation = Some(1);
    object
}

const TWO_PODS: &str = "{ model: { source: 'builtin://tiny' }, workers: 1 }";

fn valid(object: &InferenceCluster) -> Validated {
    validate(object, &Defaults { agent_image: "agent:1".into(), operator_pods: None }).unwrap()
}

fn set(object: &InferenceCluster, replicas: i32) -> Arc<StatefulSet> {
    let set = json!({
        "metadata": { "annotations": { "lockstep.dev/revision": revision(&object.spec) } },
        "spec": { "replicas": replicas, "selector": {}, "template": {} }
    });
    Arc::new(serde_json::from_value(set).unwrap())
}

fn pod(object: &InferenceCluster, name: &str, status: Value) -> Arc<Pod> {
    let scheduled = status.get("unscheduled").is_none();
    let pod = json!({
        "metadata": { "name": name, "uid": name, "labels": { "lockstep.dev/revision": revision(&object.spec) } },
        "spec": { "nodeName": scheduled.then_some("node1"), "containers": [{ "name": "rank" }] },
        "status": status,
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn running(ready: bool) -> Value {
    let state = json!({ "running": {} });
    let container = |name: &str| json!({ "name": name, "state": state, "ready": ready, "image": "", "imageID": "", "restartCount": 0 });
    json!({
        "phase": "Running",
        "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
        "containerStatuses": [container("head"), container("rank")],
    })
}

fn waiting(reason: &str, message: &str, ended: Option<Value>) -> Value {
    json!({
        "phase": "Pending",
        "containerStatuses": [{
            "name": "rank", "ready": false, "image": "", "imageID": "", "restartCount": 3,
            "state": { "waiting": { "reason": reason, "message": message } },
            "lastState": { "terminated": ended },
        }],
    })
}

fn report(ready: bool, phases: [Phase; 2]) -> Report {
    let ranks =
        phases.iter().zip(0..).map(|(&phase, rank)| RankStatus { rank, phase: phase.into(), ..Default::default() });
    let status = ClusterStatus { ready, accepting: ready, epoch: 2, ranks: ranks.collect(), ..Default::default() };
    Report { status, live: true, loading_since: None }
}

/// The status of a cluster whose one group has these pods and this report.
fn told(object: &InferenceCluster, head: Value, worker: Value, report: Option<Report>) -> Told {
    let mut group =
        GroupSeen { head_set: Some(set(object, 1)), worker_set: Some(set(object, 1)), report, ..GroupSeen::default() };
    group.pods.insert(0, pod(object, "llama-0-head-0", head));
    group.pods.insert(1, pod(object, "llama-0-worker-0", worker));
    tell(object, group)
}

fn tell(object: &InferenceCluster, group: GroupSeen) -> Told {
    let mut seen = Observation::default();
    seen.groups.insert(0, group);
    tell_seen(&valid(object), object, &seen)
}

fn tell_seen(valid: &Validated, object: &InferenceCluster, seen: &Observation) -> Told {
    let steps = decide(valid, object, seen);
    of(valid, object, seen, &steps, None)
}

#[track_caller]
fn check(told: &Told, kind: &str, status: &str, reason: &str, words: &str) {
    let condition = told.status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), (status, reason), "{}", condition.message);
    assert!(condition.message.contains(words), "{}", condition.message);
}

#[test]
fn a_serving_cluster_is_ready_and_steady() {
    let object = object(TWO_PODS);
    let told = told(&object, running(true), running(true), Some(report(true, [Phase::Serving; 2])));
    check(&told, "Ready", "True", "Serving", "1 of 1 groups serve");
    check(&told, "Progressing", "False", "Settled", "");
    check(&told, "Degraded", "False", "AsExpected", "");
    assert!(told.steady);
    let summary = told.status.summary.unwrap();
    assert_eq!((summary.groups.as_str(), summary.ranks.as_str(), summary.message.as_str()), ("1/1", "2/2", ""));
    assert_eq!(told.status.endpoint.unwrap(), "llama.ml.svc:50051");
}

/// Kubelets tell of a worker's readiness seconds after its head: until then the head alone can tell.
#[test]
fn a_cluster_is_not_steady_before_its_pods_show_it() {
    let object = object(TWO_PODS);
    let told = told(&object, running(true), running(false), Some(report(true, [Phase::Serving; 2])));
    check(&told, "Ready", "True", "Serving", "");
    assert!(!told.steady);
}

#[test]
fn what_keeps_pods_from_running_is_said_in_kubernetes_words() {
    let object = object(TWO_PODS);
    let oom = json!({ "exitCode": 137, "reason": "OOMKilled" });
    let failed =
        json!({ "exitCode": 1, "reason": "Error", "message": "{\"fields\":{\"message\":\"no folder /models/x\"}}\n" });
    let unscheduled = json!({ "unscheduled": true, "phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: Insufficient nvidia.com/gpu" }] });
    let cases = [
        (waiting("ImagePullBackOff", "agent:2: not found", None), "ImageNotFound", "not found"),
        (
            waiting("CrashLoopBackOff", "back-off", Some(oom)),
            "OutOfMemory",
            "OOMKilled: it needed more memory than it may have (exit code 137, 3 restarts)",
        ),
        (waiting("CrashLoopBackOff", "back-off", Some(failed)), "ModelNotFound", "no folder /models/x"),
        (waiting("CreateContainerConfigError", "secret \"x\" not found", None), "ContainerCannotStart", "secret"),
        (unscheduled, "InsufficientResources", "Insufficient nvidia.com/gpu"),
    ];
    for (worker, reason, words) in cases {
        let told = told(&object, running(false), worker, None);
        check(&told, "Ready", "False", reason, words);
        check(&told, "Degraded", "True", reason, words);
        assert!(!told.steady);
    }
}

#[test]
fn a_quota_is_named() {
    let object = object(TWO_PODS);
    let event = json!({
        "metadata": {}, "reason": "FailedCreate", "involvedObject": { "name": "llama-0-head" },
        "message": "pods \"llama-0-head-0\" is forbidden: exceeded quota: small",
    });
    let events = vec![serde_json::from_value(event).unwrap()];
    let told = tell(&object, GroupSeen { head_set: Some(set(&object, 1)), events, ..GroupSeen::default() });
    check(&told, "Ready", "False", "QuotaExceeded", "exceeded quota: small");
    assert_eq!(told.status.groups[0].ranks[0].message, "pods \"llama-0-head-0\" is forbidden: exceeded quota: small");
}

#[test]
fn a_group_that_lost_a_rank_recovers() {
    let mut object = object(TWO_PODS);
    let before = told(&object, running(true), running(true), Some(report(true, [Phase::Serving; 2])));
    object.status = Some(before.status);
    let mut lost = report(false, [Phase::Forming, Phase::Lost]);
    lost.status.accepting = true;
    let told = told(&object, running(true), running(false), Some(lost));
    check(&told, "Ready", "False", "Recovering", "rank 0 Forming");
    let news = news(object.status.as_ref().unwrap(), &told.status);
    assert_eq!(news.iter().map(|news| news.reason.as_str()).collect::<Vec<_>>(), ["Recovering", "GroupRecovering"]);
    check(&told, "Progressing", "True", "BringingUp", "");
    assert_eq!(told.status.groups[0].phase, GroupPhase::Recovering);
    assert!(told.status.groups[0].accepting);
}

#[test]
fn a_cluster_that_nobody_listens_to_is_what_its_pods_show() {
    let mut object = object(TWO_PODS);
    let before = told(&object, running(true), running(true), Some(report(true, [Phase::Serving; 2])));
    object.status = Some(before.status);
    let same = told(&object, running(true), running(true), None);
    assert_eq!(Some(&same.status.groups[0].phase), Some(&GroupPhase::Serving));
    assert!(same.steady);
    let other = told(&object, running(true), running(false), None);
    assert!(!other.steady);
    check(&other, "Ready", "False", "Recovering", "");
}

#[test]
fn nothing_wanted_is_not_ready_and_not_wrong() {
    let object = object("{ model: { source: 'builtin://tiny' }, replicas: 0 }");
    let valid = valid(&object);
    let told = of(&valid, &object, &Observation::default(), &Steps::new(), None);
    check(&told, "Ready", "False", "ScaledToZero", "raise it");
    assert!(told.steady);
}

#[test]
fn a_transition_keeps_its_time_and_is_told_once() {
    let mut object = object(TWO_PODS);
    let first = told(&object, running(false), running(false), Some(report(false, [Phase::Loading; 2])));
    let told_first = news(&InferenceClusterStatus::default(), &first.status);
    assert_eq!(told_first.iter().map(|news| news.reason.as_str()).collect::<Vec<_>>(), ["GroupForming"]);
    object.status = Some(first.status.clone());
    let again = told(&object, running(false), running(false), Some(report(false, [Phase::Loading; 2])));
    assert_eq!(first.status, again.status);
    assert_eq!(news(&first.status, &again.status), []);
    let serving = told(&object, running(true), running(true), Some(report(true, [Phase::Serving; 2])));
    let told = news(&first.status, &serving.status);
    assert_eq!(told.iter().map(|news| news.reason.as_str()).collect::<Vec<_>>(), ["Serving"]);
    assert!(told.iter().all(|news| !news.warning));
}

/// A head may say anything: its numbers are cut to what a status holds.
#[test]
fn numbers_without_bounds_are_cut() {
    let mut report = report(false, [Phase::Loading, Phase::Downloading]);
    report.status.epoch = u64::MAX;
    for rank in &mut report.status.ranks {
        (rank.bytes_loaded, rank.bytes_total) = (u64::MAX / 2, u64::MAX);
    }
    report.loading_since = Some((Instant::now(), 0));
    let told = told(&object(TWO_PODS), running(false), running(false), Some(report));
    let group = &told.status.groups[0];
    assert_eq!((group.epoch, group.ranks[0].bytes_total), (i64::MAX, Some(i64::MAX)));
    assert!(group.ranks.iter().all(|rank| (0..=100).contains(&rank.percent_loaded.unwrap())));
}

#[test]
fn a_thousand_ranks_fit_and_those_that_serve_go_first() {
    let mut groups: Vec<GroupStatus> = (0..4)
        .map(|index| GroupStatus {
            index,
            ready: index != 3,
            ranks: vec![crate::resource::status::RankStatus::default(); 400],
            ..GroupStatus::default()
        })
        .collect();
    bounded(&mut groups);
    assert_eq!(groups.iter().map(|group| group.ranks.len()).collect::<Vec<_>>(), [0, 0, 0, 400]);
}
