//! Pods, events and statuses as Kubernetes writes them, each with the reason that it must give.

use serde_json::{Value, json};

use super::{ClusterSnapshot, Diagnosis, diagnose};

const NOW: &str = "2026-01-01T01:00:00Z";

/// Makes a cluster of one head and one worker, with `ready` as its Ready condition and the given groups.
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

fn ready_pod(name: &str) -> Value {
    pod(name, json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}))
}

/// Makes a ready head, and a worker whose rank container is in `state`.
fn worker(state: Value, last: Value) -> Vec<Value> {
    let rank = json!({"name": "rank", "image": "r.example/agent:1", "imageID": "", "ready": false, "restartCount": 3,
        "state": state, "lastState": last});
    vec![ready_pod("q-0-head-0"), pod("q-0-worker-0", json!({"phase": "Running", "containerStatuses": [rank]}))]
}

fn unscheduled(message: &str) -> Vec<Value> {
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
    vec![ready_pod("q-0-head-0"), pod("q-0-worker-0", json!({"phase": "Pending", "conditions": [condition]}))]
}

fn waiting(reason: &str, message: &str) -> Vec<Value> {
    worker(json!({"waiting": {"reason": reason, "message": message}}), json!({}))
}

fn crashed(code: i32, reason: &str, message: &str) -> Vec<Value> {
    let end = json!({"terminated": {"exitCode": code, "reason": reason, "message": message}});
    worker(
        json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}),
        end,
    )
}

fn event(reason: &str, object: &str, message: &str) -> Value {
    json!({"metadata": {}, "reason": reason, "message": message, "involvedObject": {"name": object},
        "lastTimestamp": "2026-01-01T00:59:00Z"})
}

fn diagnose_values(cluster: Value, pods: Vec<Value>, events: Vec<Value>, nodes: Vec<Value>) -> Diagnosis {
    let read = "a Kubernetes object";
    diagnose(&ClusterSnapshot {
        cluster: &serde_json::from_value(cluster).expect(read),
        pods: &pods.into_iter().map(|pod| serde_json::from_value(pod).expect(read)).collect::<Vec<_>>(),
        events: &events.into_iter().map(|event| serde_json::from_value(event).expect(read)).collect::<Vec<_>>(),
        nodes: &nodes.into_iter().map(|node| serde_json::from_value(node).expect(read)).collect::<Vec<_>>(),
        now: NOW.parse().expect(read),
    })
}

/// Checks the reason of a cluster that is not ready and has these pods and events.
fn check(pods: Vec<Value>, events: Vec<Value>, reason: &str, message: &str) {
    let diagnosis = diagnose_values(cluster("False", json!([])), pods, events, vec![]);
    assert_eq!(diagnosis.reason.as_str(), reason, "{diagnosis:?}");
    let all = format!("{} {} {}", diagnosis.message, diagnosis.remedy, diagnosis.evidence.join(" "));
    assert!(all.contains(message), "{message} is not in {diagnosis:?}");
}

#[test]
fn an_unscheduled_pod_has_the_reason_of_the_scheduler() {
    for (message, reason, part) in [
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
            "label Kubernetes nodes",
        ),
        (
            "0/1 nodes are available: persistentvolumeclaim \"models\" not found.",
            "ClaimMissing",
            "create the claim models",
        ),
        ("0/1 nodes: pod has unbound immediate PersistentVolumeClaims.", "VolumeUnbound", "storage class"),
        ("no nodes available to schedule pods", "Unschedulable", "no nodes available to schedule pods"),
    ] {
        check(unscheduled(message), vec![], reason, part);
    }
}

#[test]
fn a_container_that_cannot_start_has_its_reason() {
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
fn a_refused_pod_has_the_reason_of_the_event() {
    let only_head = || vec![ready_pod("q-0-head-0")];
    let refusal = |message| vec![event("FailedCreate", "q-0-worker", message)];
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
fn a_crashing_container_has_its_reason() {
    let log = r#"{"timestamp":"x","level":"ERROR","fields":{"message":"read the model /models/x: config.json is missing in /models/x: a model folder holds config.json"}}"#;
    check(crashed(137, "OOMKilled", ""), vec![], "OutOfMemory", "limits.memory");
    check(crashed(2, "Error", log), vec![], "ModelNotFound", "config.json is missing in /models/x");
    let log = "ERROR read the model hf://o/n:Q9: model source `hf://o/n:Q9`: no GGUF file has the tag Q9; it offers Q8_0 (1 kB, m)";
    check(crashed(2, "Error", log), vec![], "ModelNotFound", "no GGUF file has the tag Q9");
    let log = "ERROR the model can never be served: read the model /models/x: config.json: rope_theta: 1 is too small";
    check(crashed(2, "Error", log), vec![], "ModelUnusable", "rope_theta: 1 is too small");
    check(crashed(101, "Error", "first\nthe last words\n"), vec![], "CrashLoop", "the last words");
    check(crashed(137, "Error", ""), vec![], "CrashLoop", "by a probe");
}

#[test]
fn a_lost_node_is_named() {
    let node = json!({"metadata": {"name": "n1"}, "status": {"conditions": [
        {"type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting node status."}]}});
    let diagnosis = diagnose_values(cluster("False", json!([])), vec![ready_pod("q-0-head-0")], vec![], vec![node]);
    assert_eq!(
        (diagnosis.reason.as_str(), diagnosis.evidence[0].as_str()),
        ("NodeLost", "Kubelet stopped posting node status.")
    );
}

#[test]
fn a_group_has_the_reason_of_its_phase() {
    let rank = |phase, percent| json!({"rank": 1, "pod": "q-0-worker-0", "phase": phase, "percentLoaded": percent});
    let crash =
        |reason| json!([{"pod": "q-0-worker-0", "container": "rank", "exitCode": 1, "reason": reason, "log": "oh"}]);
    for (group, reason, message) in [
        (json!({"index": 0, "phase": "Forming", "ranks": [rank("Loading", 35)]}), "Loading", "Loading, 35%"),
        (json!({"index": 0, "phase": "Recovering", "ranks": [rank("Lost", 0)]}), "Recovering", "q-0-worker-0"),
        (json!({"index": 0, "phase": "Draining"}), "Draining", "group 0"),
        (json!({"index": 0, "phase": "Updating"}), "Updating", "group 0"),
        (json!({"index": 0, "phase": "Stopped", "crashes": crash("Error")}), "RestartBudgetSpent", "budget of 5"),
        (json!({"index": 0, "phase": "Stopped", "crashes": crash("OOMKilled")}), "OutOfMemory", "budget of 5"),
    ] {
        let diagnosis = diagnose_values(cluster("False", json!([group])), vec![], vec![], vec![]);
        assert_eq!(diagnosis.reason.as_str(), reason, "{diagnosis:?}");
        assert!(diagnosis.message.contains(message), "{diagnosis:?}");
    }
}

#[test]
fn the_operator_and_the_spec_come_first() {
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
fn a_cluster_serves_only_if_operator_and_pods_agree() {
    let pods = || vec![ready_pod("q-0-head-0"), ready_pod("q-0-worker-0")];
    let serves = diagnose_values(cluster("True", json!([])), pods(), vec![], vec![]);
    assert!(serves.serves() && serves.message.contains("q.ml.svc:50051"), "{serves:?}");
    // The operator's word is old: a pod says otherwise, or is not there.
    assert_eq!(
        diagnose_values(cluster("True", json!([])), crashed(1, "Error", "x"), vec![], vec![]).reason.as_str(),
        "CrashLoop"
    );
    assert_eq!(
        diagnose_values(cluster("True", json!([])), vec![ready_pod("q-0-head-0")], vec![], vec![]).reason.as_str(),
        "NotReady"
    );
    // All pods are well, and the operator says otherwise.
    assert_eq!(diagnose_values(cluster("False", json!([])), pods(), vec![], vec![]).reason.as_str(), "NotReady");
}
