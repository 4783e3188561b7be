//! Tests of the status and of the events of clusters in each state.

mod faults;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use lockstep_proto::v1::{ClusterStatus, Phase, RankStatus};
use serde_json::{Value, json};

use super::events::find_changes;
use super::*;
use crate::heads::Report;
use crate::reconcile::groups::decide_steps;
use crate::reconcile::observation::GroupSeen;
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

/// Computes the status of a cluster with one group, which has these pods and this report.
fn computed(object: &InferenceCluster, head: Value, worker: Value, report: Option<Report>) -> ComputedStatus {
    let mut group =
        GroupSeen { head_set: Some(set(object, 1)), worker_set: Some(set(object, 1)), report, ..GroupSeen::default() };
    group.pods.insert(0, pod(object, "llama-0-head-0", head));
    group.pods.insert(1, pod(object, "llama-0-worker-0", worker));
    computed_with(object, group)
}

fn computed_with(object: &InferenceCluster, group: GroupSeen) -> ComputedStatus {
    let mut seen = Observation::default();
    seen.groups.insert(0, group);
    computed_from(&valid(object), object, &seen)
}

fn computed_from(valid: &Validated, object: &InferenceCluster, seen: &Observation) -> ComputedStatus {
    let steps = decide_steps(valid, object, seen);
    compute(valid, object, seen, &steps, None)
}

#[track_caller]
fn check(computed: &ComputedStatus, kind: &str, status: &str, reason: &str, words: &str) {
    let condition = computed.status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), (status, reason), "{}", condition.message);
    assert!(condition.message.contains(words), "{}", condition.message);
}

#[test]
fn a_serving_cluster_is_ready_and_steady() {
    let object = object(TWO_PODS);
    let status = computed(&object, running(true), running(true), Some(report(true, [Phase::Serving; 2])));
    check(&status, "Ready", "True", "Serving", "1 of 1 groups serve");
    check(&status, "Progressing", "False", "Settled", "");
    check(&status, "Degraded", "False", "AsExpected", "");
    assert!(status.steady);
    let summary = status.status.summary.unwrap();
    assert_eq!((summary.groups.as_str(), summary.ranks.as_str(), summary.message.as_str()), ("1/1", "2/2", ""));
    assert_eq!(status.status.endpoint.unwrap(), "llama.ml.svc:50051");
}

/// A kubelet reports the readiness of a worker seconds after the head does. Until then, only the head shows a change.
#[test]
fn a_cluster_is_not_steady_before_its_pods_are_ready() {
    let object = object(TWO_PODS);
    let status = computed(&object, running(true), running(false), Some(report(true, [Phase::Serving; 2])));
    check(&status, "Ready", "True", "Serving", "");
    assert!(!status.steady);
}

#[test]
fn a_pod_that_cannot_run_is_explained_in_the_words_of_kubernetes() {
    let object = object(TWO_PODS);
    let oom = json!({ "exitCode": 137, "reason": "OOMKilled" });
    let failed = json!({ "exitCode": 1, "reason": "Error", "message": "{\"fields\":{\"message\":\"model source `/x`: no folder\"}}\n" });
    let unscheduled = json!({ "unscheduled": true, "phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: Insufficient nvidia.com/gpu" }] });
    let cases = [
        (waiting("ImagePullBackOff", "agent:2: not found", None), "ImageNotFound", "not found"),
        (
            waiting("CrashLoopBackOff", "back-off", Some(oom)),
            "OutOfMemory",
            "OOMKilled: it needed more memory than it may have (exit code 137, 3 restarts)",
        ),
        (waiting("CrashLoopBackOff", "back-off", Some(failed)), "ModelNotFound", "model source `/x`: no folder"),
        (waiting("CreateContainerConfigError", "secret \"x\" not found", None), "ContainerCannotStart", "secret"),
        (unscheduled, "InsufficientResources", "Insufficient nvidia.com/gpu"),
    ];
    for (worker, reason, words) in cases {
        let status = computed(&object, running(false), worker, None);
        check(&status, "Ready", "False", reason, words);
        check(&status, "Degraded", "True", reason, words);
        assert!(!status.steady);
    }
}

#[test]
fn an_exceeded_quota_is_named() {
    let object = object(TWO_PODS);
    let event = json!({
        "metadata": {}, "reason": "FailedCreate", "involvedObject": { "name": "llama-0-head" },
        "message": "pods \"llama-0-head-0\" is forbidden: exceeded quota: small",
    });
    let events = vec![serde_json::from_value(event).unwrap()];
    let status = computed_with(&object, GroupSeen { head_set: Some(set(&object, 1)), events, ..GroupSeen::default() });
    check(&status, "Ready", "False", "QuotaExceeded", "exceeded quota: small");
    assert_eq!(status.status.groups[0].ranks[0].message, "pods \"llama-0-head-0\" is forbidden: exceeded quota: small");
}

#[test]
fn a_group_that_lost_a_rank_recovers() {
    let mut object = object(TWO_PODS);
    let before = computed(&object, running(true), running(true), Some(report(true, [Phase::Serving; 2])));
    object.status = Some(before.status);
    let mut lost = report(false, [Phase::Forming, Phase::Lost]);
    lost.status.accepting = true;
    let status = computed(&object, running(true), running(false), Some(lost));
    check(&status, "Ready", "False", "Recovering", "rank 0 Forming");
    let changes = find_changes(object.status.as_ref().unwrap(), &status.status);
    assert_eq!(
        changes.iter().map(|change| change.reason.as_str()).collect::<Vec<_>>(),
        ["Recovering", "GroupRecovering"]
    );
    check(&status, "Progressing", "True", "BringingUp", "");
    assert_eq!(status.status.groups[0].phase, GroupPhase::Recovering);
    assert!(status.status.groups[0].accepting);
}

#[test]
fn pods_show_the_state_of_a_cluster_whose_head_is_not_followed() {
    let mut object = object(TWO_PODS);
    let before = computed(&object, running(true), running(true), Some(report(true, [Phase::Serving; 2])));
    object.status = Some(before.status);
    let same = computed(&object, running(true), running(true), None);
    assert_eq!(Some(&same.status.groups[0].phase), Some(&GroupPhase::Serving));
    assert!(same.steady);
    let unready = computed(&object, running(true), running(false), None);
    assert!(!unready.steady);
    check(&unready, "Ready", "False", "Recovering", "");
}

#[test]
fn a_cluster_without_replicas_is_neither_ready_nor_degraded() {
    let object = object("{ model: { source: 'builtin://tiny' }, replicas: 0 }");
    let valid = valid(&object);
    let status = compute(&valid, &object, &Observation::default(), &Steps::new(), None);
    check(&status, "Ready", "False", "ScaledToZero", "spec.replicas is 0");
    assert!(status.steady);
}

#[test]
fn a_transition_keeps_its_time_and_makes_one_event() {
    let mut object = object(TWO_PODS);
    let first = computed(&object, running(false), running(false), Some(report(false, [Phase::Loading; 2])));
    let changes = find_changes(&InferenceClusterStatus::default(), &first.status);
    assert_eq!(changes.iter().map(|change| change.reason.as_str()).collect::<Vec<_>>(), ["GroupForming"]);
    object.status = Some(first.status.clone());
    let again = computed(&object, running(false), running(false), Some(report(false, [Phase::Loading; 2])));
    assert_eq!(first.status, again.status);
    assert_eq!(find_changes(&first.status, &again.status), []);
    let serving = computed(&object, running(true), running(true), Some(report(true, [Phase::Serving; 2])));
    let changes = find_changes(&first.status, &serving.status);
    assert_eq!(changes.iter().map(|change| change.reason.as_str()).collect::<Vec<_>>(), ["Serving"]);
    assert!(changes.iter().all(|change| !change.warning));
}

/// A head may report any number. The status limits it to the range of its type.
#[test]
fn numbers_out_of_range_are_limited() {
    let mut report = report(false, [Phase::Loading, Phase::Downloading]);
    report.status.epoch = u64::MAX;
    for rank in &mut report.status.ranks {
        (rank.bytes_loaded, rank.bytes_total) = (u64::MAX / 2, u64::MAX);
    }
    report.loading_since = Some((Instant::now(), 0));
    let status = computed(&object(TWO_PODS), running(false), running(false), Some(report));
    let group = &status.status.groups[0];
    assert_eq!((group.epoch, group.ranks[0].bytes_total), (i64::MAX, Some(i64::MAX)));
    assert!(group.ranks.iter().all(|rank| (0..=100).contains(&rank.percent_loaded.unwrap())));
}

#[test]
fn ranks_beyond_the_limit_are_dropped_and_serving_ones_first() {
    let mut groups: Vec<GroupStatus> = (0..4)
        .map(|index| GroupStatus {
            index,
            ready: index != 3,
            ranks: vec![crate::resource::status::RankStatus::default(); 400],
            ..GroupStatus::default()
        })
        .collect();
    limit_ranks(&mut groups);
    assert_eq!(groups.iter().map(|group| group.ranks.len()).collect::<Vec<_>>(), [0, 0, 0, 400]);
}
