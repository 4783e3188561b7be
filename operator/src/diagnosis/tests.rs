//! Pods, events and status as Kubernetes writes them, and the reason that each must give.

use serde_json::{Value, json};

use super::{ClusterObjects, Diagnosis, diagnose};

const NOW: &str = "2026-01-01T01:00:00Z";

/// A cluster of one head and one worker, with `ready` as its Ready condition and the given groups.
fn cluster(ready: &str, groups: Value) -> Value {
    json!({
        "apiVersion": "lockstep.dev/v1alpha1", "kind": "InferenceCluster",
        "metadata": {"name": "q", "namespace": "ml", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"model": {"source": "pvc://models/tiny"}, "workers": 1, "replicas": 1, "restartBudget": 5},
        "status": {
            "observedGeneration": 1, "readyReplicas": 1, "endpoint": "q.ml.svc:50051", "groups": groups,
            "conditions": [{"type": "Ready", "status": ready, "reason": "GroupsNotReady", "message": "0 of 1 groups serve",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        }
    })
}

fn pod(name: &str, status: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [], "nodeName": "n1"}, "status": status})
}

fn well(name: &str) -> Value {
    pod(name, json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}))
}

/// The head is well; the worker's rank container is in `state`.
fn worker(state: Value, last: Value) -> Vec<Value> {
    let rank = json!({"name": "rank", "image": "r.example/agent:1", "imageID": "", "ready": false, "restartCount": 3,
        "state": state, "lastState": last});
    vec![well("q-0-head-0"), pod("q-0-worker-0", json!({"phase": "Running", "containerStatuses": [rank]}))]
}

fn unscheduled(said: &str) -> Vec<Value> {
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": said});
    vec![well("q-0-head-0"), pod("q-0-worker-0", json!({"phase": "Pending", "conditions": [condition]}))]
}

fn waiting(reason: &str, said: &str) -> Vec<Value> {
    worker(json!({"waiting": {"reason": reason, "message": said}}), json!({}))
}

fn crashed(code: i32, reason: &str, said: &str) -> Vec<Value> {
    let end = json!({"terminated": {"exitCode": code, "reason": reason, "message": said}});
    worker(
        json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}),
        end,
    )
}

fn event(reason: &str, object: &str, said: &str) -> Value {
    json!({"metadata": {}, "reason": reason, "message": said, "involvedObject": {"name": object},
        "lastTimestamp": "2026-01-01T00:59:00Z"})
}

fn diagnose_values(cluster: Value, pods: Vec<Value>, events: Vec<Value>, nodes: Vec<Value>) -> Diagnosis {
    let read = "a Kubernetes object";
    diagnose(&ClusterObjects {
        cluster: &serde_json::from_value(cluster).expect(read),
        pods: &pods.into_iter().map(|pod| serde_json::from_value(pod).expect(read)).collect::<Vec<_>>(),
        events: &events.into_iter().map(|event| serde_json::from_value(event).expect(read)).collect::<Vec<_>>(),
        nodes: &nodes.into_iter().map(|node| serde_json::from_value(node).expect(read)).collect::<Vec<_>>(),
        now: NOW.parse().expect(read),
    })
}

/// The reason of a cluster that is not ready, whose pods are `pods`.
fn check(pods: Vec<Value>, events: Vec<Value>, reason: &str, said: &str) {
    let diagnosis = diagnose_values(cluster("False", json!([])), pods, events, vec![]);
    assert_eq!(diagnosis.reason.as_str(), reason, "{diagnosis:?}");
    let all = format!("{} {} {}", diagnosis.message, diagnosis.remedy, diagnosis.evidence.join(" "));
    assert!(all.contains(said), "{said} is not in {diagnosis:?}");
}

#[test]
fn pods_that_no_node_takes() {
    for (said, reason, part) in [
        (
            "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3",
            "InsufficientResources",
            "free nvidia.com/gpu for",
        ),
        (
            "0/3 nodes are available: 3 Insufficient memory, 1 Insufficient cpu.",
            "InsufficientResources",
            "free memory for",
        ),
        ("0/1 nodes are available: 1 node(s) had untolerated taint {spot: }.", "TaintNotTolerated", "tolerations"),
        (
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            "NoMatchingNode",
            "label nodes",
        ),
        (
            "0/1 nodes are available: persistentvolumeclaim \"models\" not found.",
            "ClaimMissing",
            "create the claim models",
        ),
        ("0/1 nodes: pod has unbound immediate PersistentVolumeClaims.", "VolumeUnbound", "storage class"),
        ("no nodes available to schedule pods", "Unschedulable", "no nodes available to schedule pods"),
    ] {
        check(unscheduled(said), vec![], reason, part);
    }
}

#[test]
fn containers_that_cannot_start() {
    let gone = "rpc error: code = NotFound desc = failed to pull and unpack image: r.example/agent:1: not found";
    let private = "failed to authorize: 401 Unauthorized";
    let secret = event(
        "FailedToRetrieveImagePullSecret",
        "q-0-worker-0",
        "Unable to retrieve some image pull secrets (regcred)",
    );
    check(waiting("ErrImagePull", gone), vec![], "ImageNotFound", "r.example/agent:1");
    check(waiting("ImagePullBackOff", "Back-off pulling image"), vec![], "ImageNotFound", "spec.image");
    check(waiting("ErrImageNeverPull", ""), vec![], "ImageAbsent", "spec.imagePullPolicy");
    check(waiting("InvalidImageName", "couldn't parse image name"), vec![], "ImageInvalid", "REGISTRY/NAME:TAG");
    check(waiting("ErrImagePull", private), vec![], "ImagePullDenied", "spec.imagePullSecrets");
    check(waiting("ErrImagePull", private), vec![secret], "PullSecretMissing", "regcred");
    check(
        waiting("CreateContainerConfigError", "secret \"hf\" not found"),
        vec![],
        "ContainerCannotStart",
        "secret \"hf\"",
    );
    let mount = event("FailedMount", "q-0-worker-0", "MountVolume.SetUp failed for volume \"tls\": secret not found");
    check(waiting("ContainerCreating", ""), vec![mount], "VolumeNotMounted", "volume \"tls\"");
}

#[test]
fn pods_that_are_refused() {
    let only_head = || vec![well("q-0-head-0")];
    let refusal = |said| vec![event("FailedCreate", "q-0-worker", said)];
    let quota = "create Pod q-0-worker-0 failed error: pods \"q-0-worker-0\" is forbidden: exceeded quota: few, requested: pods=1";
    let security = "pods \"q-0-worker-0\" is forbidden: violates PodSecurity \"restricted:latest\": hostPath volumes";
    check(only_head(), refusal(quota), "QuotaExceeded", "exceeded quota: few");
    check(only_head(), refusal(security), "PodSecurityRefused", "hostPath");
    check(only_head(), refusal("admission webhook \"x\" denied the request"), "PodsRefused", "webhook \"x\"");
    // An old refusal of a pod that is there by now says nothing; another cluster's neither.
    check(unscheduled("3 Insufficient cpu"), refusal(quota), "InsufficientResources", "cpu");
    check(only_head(), vec![event("FailedCreate", "q-other-0-worker", quota)], "NotReady", "0 of 1 groups serve");
}

#[test]
fn containers_that_end() {
    let log = r#"{"timestamp":"x","level":"ERROR","fields":{"message":"cannot read /models/tiny/config.json: No such file or directory"}}"#;
    check(crashed(137, "OOMKilled", ""), vec![], "OutOfMemory", "limits.memory");
    check(crashed(2, "Error", log), vec![], "ModelNotFound", "ERROR cannot read /models/tiny/config.json");
    check(crashed(101, "Error", "first\nthe last words\n"), vec![], "CrashLoop", "the last words");
    check(crashed(137, "Error", ""), vec![], "CrashLoop", "by a probe");
}

#[test]
fn a_lost_node() {
    let node = json!({"metadata": {"name": "n1"}, "status": {"conditions": [
        {"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting node status."}]}});
    let diagnosis = diagnose_values(cluster("False", json!([])), vec![well("q-0-head-0")], vec![], vec![node]);
    assert_eq!(
        (diagnosis.reason.as_str(), diagnosis.evidence[0].as_str()),
        ("NodeLost", "Kubelet stopped posting node status.")
    );
}

#[test]
fn groups_on_their_way_or_stopped() {
    let rank = |phase, percent| json!({"rank": 1, "pod": "q-0-worker-0", "phase": phase, "percentLoaded": percent});
    let crash =
        |reason| json!([{"pod": "q-0-worker-0", "container": "rank", "exitCode": 1, "reason": reason, "log": "oh"}]);
    for (group, reason, said) in [
        (json!({"index": 0, "phase": "Forming", "ranks": [rank("Loading", 35)]}), "Loading", "35% loaded"),
        (json!({"index": 0, "phase": "Recovering", "ranks": [rank("Lost", 0)]}), "Recovering", "q-0-worker-0"),
        (json!({"index": 0, "phase": "Draining"}), "Draining", "group 0"),
        (json!({"index": 0, "phase": "Updating"}), "Updating", "group 0"),
        (json!({"index": 0, "phase": "Stopped", "crashes": crash("Error")}), "RestartBudgetSpent", "budget of 5"),
        (json!({"index": 0, "phase": "Stopped", "crashes": crash("OOMKilled")}), "OutOfMemory", "budget of 5"),
    ] {
        let diagnosis = diagnose_values(cluster("False", json!([group])), vec![], vec![], vec![]);
        assert_eq!(diagnosis.reason.as_str(), reason, "{diagnosis:?}");
        assert!(diagnosis.message.contains(said), "{diagnosis:?}");
    }
}

#[test]
fn the_operator_and_the_spec() {
    let with = |pointer: &str, value: Value| {
        let mut cluster = cluster("False", json!([]));
        *cluster.pointer_mut(pointer).expect("a field") = value;
        diagnose_values(cluster, vec![], vec![], vec![]).reason.as_str()
    };
    assert_eq!(with("/status", json!(null)), "OperatorNotRunning");
    assert_eq!(with("/metadata/generation", json!(2)), "OperatorNotRunning");
    assert_eq!(with("/status/conditions/0/reason", json!("InvalidSpec")), "InvalidSpec");
    assert_eq!(with("/spec/replicas", json!(0)), "ScaledToZero");
    let mut young = cluster("False", json!([]));
    young["status"] = json!(null);
    young["metadata"]["creationTimestamp"] = json!("2026-01-01T00:59:50Z");
    assert_eq!(diagnose_values(young, vec![], vec![], vec![]).reason.as_str(), "WaitingForOperator");
}

#[test]
fn all_is_well_only_where_it_is() {
    let pods = || vec![well("q-0-head-0"), well("q-0-worker-0")];
    let serves = diagnose_values(cluster("True", json!([])), pods(), vec![], vec![]);
    assert!(serves.serves() && serves.message.contains("q.ml.svc:50051"), "{serves:?}");
    // The operator's word is old: a pod says otherwise, or is not there.
    assert_eq!(
        diagnose_values(cluster("True", json!([])), crashed(1, "Error", "x"), vec![], vec![]).reason.as_str(),
        "CrashLoop"
    );
    assert_eq!(
        diagnose_values(cluster("True", json!([])), vec![well("q-0-head-0")], vec![], vec![]).reason.as_str(),
        "NotReady"
    );
    // All pods are well, and the operator says otherwise.
    assert_eq!(diagnose_values(cluster("False", json!([])), pods(), vec![], vec![]).reason.as_str(), "NotReady");
}
