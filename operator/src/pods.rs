//! Readings of a pod's status: readiness, Kubernetes node, restarts, crashes, and the state of a container that does
//! not run. Pure. The module `diagnosis` decides why a pod keeps its cluster from serving.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::log_line::last_log_line;
use crate::resource::status::Crash;

/// Run time after which the next crash does not spend the restart budget, however often the container was started
/// again. Kubernetes resets its own back-off after the same time.
const LONG_RUN_SECONDS: i64 = 600;
/// Maximum bytes of a crash's log in a status.
const LOG_BYTES: usize = 1024;

/// Returns true if the condition Ready of `pod` is True.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Returns the Kubernetes node that `pod` was scheduled to.
#[must_use]
pub fn kube_node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Returns the time at which the scheduler assigned `pod` to its Kubernetes node.
#[must_use]
pub fn assigned_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut assigned = conditions.filter(|condition| condition.type_ == "PodScheduled" && condition.status == "True");
    Some(assigned.next()?.last_transition_time.as_ref()?.0)
}

/// Iterates over the statuses of the containers of `pod`, init containers first.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let inits = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    inits.chain(status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten())
}

/// Returns how often Kubernetes has started the container `name` again in the life of the pod.
#[must_use]
pub fn restarts(pod: &Pod, name: &str) -> i32 {
    containers(pod).find(|container| container.name == name).map_or(0, |container| container.restart_count)
}

/// Returns true if a container of `pod` has spent the restart `budget`. Such a container is in crash back-off, ran for
/// less than 10 minutes before its last end, and was started again at least `budget` times. Kubernetes never resets
/// that number in the life of a pod, so a single short run can spend the budget of a container that once ran for long.
/// A `budget` of 0 is never spent.
#[must_use]
pub fn is_budget_spent(pod: &Pod, budget: u32) -> bool {
    budget > 0
        && containers(pod).any(|container| {
            let backs_off = classify_wait(container).is_some_and(|(wait, _)| wait == Wait::BackOff);
            backs_off && !ran_long(container) && container.restart_count >= i32::try_from(budget).unwrap_or(i32::MAX)
        })
}

/// Returns true if `container` ran for at least 10 minutes before its last end.
#[must_use]
pub fn ran_long(container: &ContainerStatus) -> bool {
    last_end(container).is_some_and(|end| seconds_of_run(end) >= LONG_RUN_SECONDS)
}

fn seconds_of_run(end: &ContainerStateTerminated) -> i64 {
    match (&end.started_at, &end.finished_at) {
        (Some(start), Some(end)) => end.0.as_second() - start.0.as_second(),
        _ => 0,
    }
}

/// Returns the last end of `container`.
#[must_use]
pub fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let ended = |state: &'_ Option<ContainerState>| state.as_ref().and_then(|state| state.terminated.clone()).is_some();
    let state = if ended(&container.state) { &container.state } else { &container.last_state };
    state.as_ref()?.terminated.as_ref()
}

/// Returns the last end of each container, unless the exit code of that end is 0.
#[must_use]
pub fn list_crashes(pod: &Pod) -> Vec<Crash> {
    let crash = |container: &ContainerStatus| {
        let end = last_end(container).filter(|end| end.exit_code != 0)?;
        Some(Crash {
            pod: pod.name_any(),
            container: container.name.clone(),
            exit_code: end.exit_code,
            reason: end.reason.clone().unwrap_or_default(),
            node: kube_node(pod).unwrap_or_default().to_owned(),
            at: end.finished_at.clone(),
            restarts: container.restart_count,
            log: log_tail(end.message.as_deref().unwrap_or_default(), LOG_BYTES).to_owned(),
        })
    };
    containers(pod).filter_map(crash).collect()
}

/// Returns the last `most` bytes of `text`, from the beginning of a line where that is possible.
#[must_use]
pub fn log_tail(text: &str, most: usize) -> &str {
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

/// State in which the kubelet keeps a container that does not run yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The kubelet mounts volumes, or the image is being pulled.
    Preparing,
    /// The image's name cannot be parsed.
    ImageInvalid,
    /// The image is not on the Kubernetes node, and the pull policy forbids a pull.
    ImageAbsent,
    /// The image cannot be pulled.
    ImagePull,
    /// The container cannot be created or started.
    Start,
    /// The container ended, and the kubelet pauses before it starts the container again.
    BackOff,
    /// A reason that only some kubelets give.
    Other,
}

/// Returns the state that `container` waits in and the kubelet's message, or `None` if `container` does not wait.
#[must_use]
pub fn classify_wait(container: &ContainerStatus) -> Option<(Wait, &str)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let wait = match waiting.reason.as_deref().unwrap_or_default() {
        "ContainerCreating" | "PodInitializing" => Wait::Preparing,
        "InvalidImageName" => Wait::ImageInvalid,
        "ErrImageNeverPull" => Wait::ImageAbsent,
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" => Wait::ImagePull,
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Wait::Start,
        "CrashLoopBackOff" => Wait::BackOff,
        _ => Wait::Other,
    };
    Some((wait, waiting.message.as_deref().unwrap_or_default()))
}

/// Obstacle that keeps the container of a rank from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankObstacle {
    /// Phase of the rank: `Scheduling`, `Pulling`, `Starting` or `Lost`.
    pub phase: &'static str,
    /// Message of the scheduler or of the kubelet.
    pub message: String,
}

/// Returns the obstacle that keeps the container `name` of `pod` from running, or `None` if the container runs.
#[must_use]
pub fn find_rank_obstacle(pod: &Pod, name: &str) -> Option<RankObstacle> {
    let obstacle = |phase, message: &str| Some(RankObstacle { phase, message: message.to_owned() });
    if pod.metadata.deletion_timestamp.is_some() {
        return obstacle("Lost", "the pod is being deleted");
    }
    if kube_node(pod).is_none() {
        let message = unscheduled_condition(pod).and_then(|condition| condition.message.as_deref());
        return obstacle("Scheduling", message.unwrap_or("waits for a Kubernetes node"));
    }
    if let Some(message) = failure(pod) {
        return obstacle("Lost", message);
    }
    let container = containers(pod).find(|container| container.name == name);
    let Some(container) = container.filter(|container| container.state.is_some()) else {
        return obstacle("Starting", "the kubelet has not started the pod yet");
    };
    if let Some((wait, message)) = classify_wait(container) {
        return match wait {
            Wait::BackOff => obstacle("Lost", &describe_end(container)),
            Wait::ImageInvalid | Wait::ImageAbsent | Wait::ImagePull => obstacle("Pulling", message),
            Wait::Start => obstacle("Starting", message),
            Wait::Preparing | Wait::Other if message.is_empty() => {
                obstacle("Pulling", "pulls the image and mounts volumes")
            }
            Wait::Preparing | Wait::Other => obstacle("Pulling", message),
        };
    }
    has_terminated(container).then(|| RankObstacle { phase: "Lost", message: describe_end(container) })
}

/// Returns the condition by which the scheduler says that it has no Kubernetes node for `pod`, or that a gate holds the
/// pod.
#[must_use]
pub fn unscheduled_condition(pod: &Pod) -> Option<&PodCondition> {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
}

/// Returns the reason why `pod` failed as a whole: its Kubernetes node evicted or refused the pod.
#[must_use]
pub fn failure(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Failed"))?;
    Some(status.message.as_deref().or(status.reason.as_deref()).unwrap_or("the pod failed"))
}

/// Returns true if `container` has ended and does not run again yet.
#[must_use]
pub fn has_terminated(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_some_and(|state| state.terminated.is_some())
}

/// Returns the end of a container in a line: reason, exit code, restarts, and the last line of its log.
fn describe_end(container: &ContainerStatus) -> String {
    let restarts = container.restart_count;
    let Some(end) = last_end(container) else { return format!("crashes again and again ({restarts} restarts)") };
    let reason = end.reason.as_deref().unwrap_or("Error");
    let line = last_log_line(end.message.as_deref().unwrap_or_default());
    let line = if line.is_empty() { line } else { format!(": {line}") };
    format!("ended with {reason}, exit code {}, {restarts} restarts{line}", end.exit_code)
}
