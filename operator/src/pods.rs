//! What a pod's status means, for decisions and for people. Pure.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt as _;

use crate::resource::status::Crash;

/// A container that ran this long before it crashed counts as having served: its budget is whole again. Kubernetes
/// resets its own back-off after as long.
const SERVED_SECONDS: i64 = 600;
/// Most bytes of a crash's log that a status keeps.
const LOG_BYTES: usize = 1024;

/// Kubernetes sends it requests.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The node that it was given.
#[must_use]
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// The statuses of its containers, init containers first.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let inits = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    inits.chain(status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten())
}

/// Times that the container `name` was started again.
#[must_use]
pub fn restarts(pod: &Pod, name: &str) -> i32 {
    containers(pod).find(|container| container.name == name).map_or(0, |container| container.restart_count)
}

/// A container crashed more often in a row than it may.
#[must_use]
pub fn budget_spent(pod: &Pod, budget: u32) -> bool {
    budget > 0
        && containers(pod).any(|container| {
            let waits = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            let backs_off = waits.is_some_and(|waits| waits.reason.as_deref() == Some("CrashLoopBackOff"));
            let served = last_end(container).is_some_and(|end| ran_for(end) >= SERVED_SECONDS);
            backs_off && !served && container.restart_count >= i32::try_from(budget).unwrap_or(i32::MAX)
        })
}

fn ran_for(end: &ContainerStateTerminated) -> i64 {
    match (&end.started_at, &end.finished_at) {
        (Some(start), Some(end)) => end.0.as_second() - start.0.as_second(),
        _ => 0,
    }
}

/// How a container ended last.
#[must_use]
pub fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let ended = |state: &'_ Option<ContainerState>| state.as_ref().and_then(|state| state.terminated.clone()).is_some();
    let state = if ended(&container.state) { &container.state } else { &container.last_state };
    state.as_ref()?.terminated.as_ref()
}

/// The last unwanted end of each container that had one.
#[must_use]
pub fn crashes(pod: &Pod) -> Vec<Crash> {
    let crash = |container: &ContainerStatus| {
        let end = last_end(container).filter(|end| end.exit_code != 0)?;
        Some(Crash {
            pod: pod.name_any(),
            container: container.name.clone(),
            exit_code: end.exit_code,
            reason: end.reason.clone().unwrap_or_default(),
            node: node(pod).unwrap_or_default().to_owned(),
            at: end.finished_at.clone(),
            restarts: container.restart_count,
            log: tail(end.message.as_deref().unwrap_or_default(), LOG_BYTES).to_owned(),
        })
    };
    containers(pod).filter_map(crash).collect()
}

/// The last `most` bytes of `text`, from the beginning of a line where that is possible.
#[must_use]
pub fn tail(text: &str, most: usize) -> &str {
    let text = text.trim_end();
    let mut start = text.len().saturating_sub(most);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let cut = &text[start..];
    match cut.find('\n') {
        Some(line) if start > 0 => &cut[line + 1..],
        _ => cut,
    }
}

/// What keeps a pod from running, as Kubernetes says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The phase that its ranks are in: `Scheduling`, `Pulling`, `Starting` or `Lost`.
    pub phase: &'static str,
    /// A word for a condition's reason; empty where it is only on its way.
    pub reason: &'static str,
    /// The scheduler's or the kubelet's words.
    pub message: String,
}

/// What keeps container `name` of `pod` from running; `None`: it runs.
#[must_use]
pub fn trouble(pod: &Pod, name: &str) -> Option<Trouble> {
    let told = |phase, reason, message: &str| Some(Trouble { phase, reason, message: message.to_owned() });
    if pod.metadata.deletion_timestamp.is_some() {
        return told("Lost", "", "the pod is being deleted");
    }
    let status = pod.status.as_ref();
    if node(pod).is_none() {
        let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let scheduled = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled");
        let refused = scheduled.filter(|condition| condition.reason.as_deref() == Some("Unschedulable"));
        return match refused {
            Some(condition) => told("Scheduling", "Unschedulable", condition.message.as_deref().unwrap_or_default()),
            None => told("Scheduling", "", "waits for a node"),
        };
    }
    // A pod that failed as a whole: evicted, or refused by its node.
    if let Some(status) = status.filter(|status| status.phase.as_deref() == Some("Failed")) {
        let message = status.message.as_deref().or(status.reason.as_deref()).unwrap_or("the pod failed");
        return told("Lost", "PodFailed", message);
    }
    let container = containers(pod).find(|container| container.name == name);
    let Some(state) = container.and_then(|container| container.state.as_ref()) else {
        return told("Starting", "", "its node has not begun yet");
    };
    if let Some(waiting) = &state.waiting {
        let words = waiting.message.as_deref().unwrap_or_default();
        let end = container.and_then(last_end);
        return match waiting.reason.as_deref().unwrap_or_default() {
            "CrashLoopBackOff" => {
                let oom = end.is_some_and(|end| end.reason.as_deref() == Some("OOMKilled"));
                let reason = if oom { "OutOfMemory" } else { "CrashLoop" };
                Some(Trouble { phase: "Lost", reason, message: crashed(container, end) })
            }
            "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable" => {
                told("Pulling", "ImagePull", words)
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                told("Starting", "CannotStart", words)
            }
            _ => told("Pulling", "", if words.is_empty() { "pulls the image and mounts volumes" } else { words }),
        };
    }
    if let Some(end) = &state.terminated {
        let oom = end.reason.as_deref() == Some("OOMKilled");
        return Some(Trouble {
            phase: "Lost",
            reason: if oom { "OutOfMemory" } else { "" },
            message: crashed(container, Some(end)),
        });
    }
    None
}

/// The end of a container in a line: code, reason, and its last words.
fn crashed(container: Option<&ContainerStatus>, end: Option<&ContainerStateTerminated>) -> String {
    let restarts = container.map_or(0, |container| container.restart_count);
    let Some(end) = end else { return format!("crashes again and again ({restarts} restarts)") };
    let reason = end.reason.as_deref().unwrap_or("Error");
    let words = end.message.as_deref().and_then(|log| log.lines().rev().find(|line| !line.trim().is_empty()));
    let words = words.map(|line| format!(": {}", said(line))).unwrap_or_default();
    format!("ended with {reason}, exit code {}, {restarts} restarts{words}", end.exit_code)
}

/// The message of a log line, which may be JSON.
fn said(line: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(line.trim()).ok();
    let message = parsed.as_ref().and_then(|line| {
        let fields = line.get("fields").unwrap_or(line);
        fields.get("message")?.as_str().map(str::to_owned)
    });
    message.unwrap_or_else(|| line.trim().to_owned())
}
