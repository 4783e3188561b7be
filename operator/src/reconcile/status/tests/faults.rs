//! Each fault has one reason: conditions, events and `lockstep why` give the same reason for the same objects.

use k8s_openapi::api::core::v1::{Event, Pod};
use serde_json::{Value, json};

use super::{Observation, TWO_PODS, computed_from, object, running, set, valid};
use crate::diagnosis::{ClusterSnapshot, Reason, diagnose};
use crate::observe::trim_pod;
use crate::reconcile::events::keep_newest;
use crate::reconcile::observation::GroupSeen;
use crate::reconcile::status::events::find_changes;
use crate::resource::InferenceClusterStatus;
use crate::resource::status::condition::{DEGRADED, READY};

const WORKER: &str = "llama-0-worker-0";

/// Objects of a cluster whose head runs and whose worker has one fault.
struct Fault {
    /// Status of the worker's pod. `None` if Kubernetes refuses to make the pod.
    worker: Option<Value>,
    /// Reason, object and message of the events in the namespace, oldest first.
    events: Vec<(&'static str, &'static str, &'static str)>,
    reason: Reason,
    /// Part of the condition's message.
    words: &'static str,
}

fn container(state: Value, last_state: Value, restarts: i32) -> Value {
    json!({ "phase": "Pending", "containerStatuses": [{
        "name": "rank", "ready": false, "image": "registry.example/agent:2", "imageID": "", "restartCount": restarts,
        "state": state, "lastState": last_state,
    }] })
}

fn waiting(reason: &str, message: &str) -> Option<Value> {
    Some(container(json!({ "waiting": { "reason": reason, "message": message } }), json!({}), 0))
}

fn crashed(exit_code: i32, reason: &str, log: &str) -> Option<Value> {
    let waits = json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s restarting" } });
    let ended = json!({ "terminated": { "exitCode": exit_code, "reason": reason, "message": log } });
    Some(container(waits, ended, 3))
}

fn unschedulable(message: &str) -> Option<Value> {
    Some(json!({ "unscheduled": true, "phase": "Pending", "conditions": [
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message },
    ] }))
}

fn pod(name: &str, status: Value) -> Pod {
    let node = status.get("unscheduled").is_none().then_some("node1");
    let pod = json!({
        "metadata": { "name": name, "uid": name },
        "spec": { "nodeName": node, "containers": [{ "name": "rank" }] },
        "status": status,
    });
    serde_json::from_value(pod).unwrap()
}

#[track_caller]
fn check(fault: Fault) {
    let mut object = object(TWO_PODS);
    let mut pods = vec![pod("llama-0-head-0", running(false))];
    pods.extend(fault.worker.map(|status| pod(WORKER, status)));
    let event = |(minute, (reason, name, message)): (usize, (&str, &str, &str))| -> Event {
        let event = json!({
            "metadata": { "name": "one" }, "type": "Warning", "reason": reason, "message": message,
            "involvedObject": { "name": name, "uid": name }, "lastTimestamp": format!("2026-01-01T00:{minute:02}:00Z"),
        });
        serde_json::from_value(event).unwrap()
    };
    let events: Vec<Event> = fault.events.into_iter().enumerate().map(event).collect();

    let mut group = GroupSeen {
        head_set: Some(set(&object, 1)),
        worker_set: Some(set(&object, 1)),
        events: keep_newest(events.clone()),
        ..GroupSeen::default()
    };
    for (ordinal, pod) in (0..).zip(&pods) {
        let mut kept = pod.clone();
        trim_pod(&mut kept);
        group.pods.insert(ordinal, kept.into());
    }
    let mut seen = Observation::default();
    seen.groups.insert(0, group);
    let status = computed_from(&valid(&object), &object, &seen).status;

    let expected = fault.reason.as_str();
    for kind in [READY, DEGRADED] {
        let condition = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        assert_eq!(condition.reason, expected, "{kind}: {}", condition.message);
        assert!(condition.message.contains(fault.words), "{kind}: {}", condition.message);
    }
    let changes = find_changes(&InferenceClusterStatus::default(), &status);
    let warning = changes.iter().find(|change| change.warning).expect("a warning");
    assert_eq!(warning.reason, expected, "{}", warning.note);

    let message = status.conditions[0].message.clone();
    object.status = Some(status);
    let now = "2026-01-01T00:00:10Z".parse().unwrap();
    let why = diagnose(&ClusterSnapshot { cluster: &object, pods: &pods, events: &events, nodes: &[], now });
    assert_eq!((why.reason.as_str(), why.summary()), (expected, message));
}

#[test]
fn an_image_is_missing() {
    let message = "failed to pull and unpack image \"registry.example/agent:2\": not found";
    for reason in ["ErrImagePull", "ImagePullBackOff"] {
        let worker = waiting(reason, message);
        check(Fault { worker, events: Vec::new(), reason: Reason::ImageNotFound, words: "registry.example/agent:2" });
    }
}

#[test]
fn an_image_name_is_wrong() {
    let worker = waiting("InvalidImageName", "couldn't parse image name");
    check(Fault { worker, events: Vec::new(), reason: Reason::ImageInvalid, words: "is no image reference" });
}

#[test]
fn a_quota_is_exceeded() {
    let message = "create Pod llama-0-worker-0 failed: pods is forbidden: exceeded quota: small, requested: pods=1";
    let events = vec![("FailedCreate", "llama-0-worker", message)];
    check(Fault { worker: None, events, reason: Reason::QuotaExceeded, words: "exceeded quota: small" });
}

#[test]
fn no_node_has_room() {
    let worker = unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.");
    check(Fault {
        worker,
        events: Vec::new(),
        reason: Reason::InsufficientResources,
        words: "3 Insufficient nvidia.com/gpu",
    });
}

#[test]
fn a_rank_needs_too_much_memory() {
    check(Fault {
        worker: crashed(137, "OOMKilled", ""),
        events: Vec::new(),
        reason: Reason::OutOfMemory,
        words: "OOMKilled",
    });
    let ended = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    let worker = Some(container(ended, json!({}), 0));
    check(Fault { worker, events: Vec::new(), reason: Reason::OutOfMemory, words: "OOMKilled" });
}

#[test]
fn a_rank_crashes_again_and_again() {
    let log = r#"{"level":"ERROR","fields":{"message":"LOCKSTEP_ISA=nonsense names no instruction set"}}"#;
    let worker = crashed(2, "Error", log);
    check(Fault { worker, events: Vec::new(), reason: Reason::CrashLoop, words: "LOCKSTEP_ISA=nonsense" });
    // Between two crashes the container runs for a moment.
    let ended = json!({ "terminated": { "exitCode": 2, "reason": "Error", "message": log } });
    let worker = Some(container(json!({ "running": {} }), ended, 2));
    check(Fault { worker, events: Vec::new(), reason: Reason::CrashLoop, words: "LOCKSTEP_ISA=nonsense" });
}

#[test]
fn a_model_path_is_missing() {
    let log =
        r#"{"level":"ERROR","fields":{"message":"read the model /models/x: config.json is missing in /models/x"}}"#;
    let worker = crashed(2, "Error", log);
    check(Fault {
        worker,
        events: Vec::new(),
        reason: Reason::ModelNotFound,
        words: "config.json is missing in /models/x",
    });
}

#[test]
fn a_volume_is_missing() {
    let worker = unschedulable("0/3 nodes are available: persistentvolumeclaim \"models\" not found.");
    check(Fault { worker, events: Vec::new(), reason: Reason::ClaimMissing, words: "PersistentVolumeClaim models" });
    let worker = unschedulable("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.");
    check(Fault { worker, events: Vec::new(), reason: Reason::VolumeUnbound, words: "unbound immediate" });
    let message = "MountVolume.SetUp failed for volume \"extra\": configmap \"extra\" not found";
    let timed_out = "Unable to attach or mount volumes: unmounted volumes=[extra]: context deadline exceeded";
    let events = vec![("FailedMount", WORKER, message), ("FailedMount", WORKER, timed_out)];
    let worker = waiting("ContainerCreating", "");
    check(Fault { worker, events, reason: Reason::VolumeNotMounted, words: "configmap \"extra\" not found" });
}
