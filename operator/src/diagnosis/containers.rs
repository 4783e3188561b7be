//! Containers that cannot start, or that end: images, secrets, volumes, memory, crashes.

use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};

use lockstep_proto::names::MODEL_UNUSABLE;

use super::creation::last_seen;
use super::{ClusterFacts, Diagnosis, Reason, Subject, live_pods, pod_name};
use crate::log_line::last_log_line;
use crate::plan::RANK;
use crate::pods::{self, Wait, classify_wait, containers};

/// Exit status of a process that was killed with SIGKILL.
const KILLED: i32 = 137;
/// Kubernetes' reason of a container that the kernel killed for want of memory.
const OOM_KILLED: &str = "OOMKilled";

/// Parts of the log line by which a process says that its model does not exist.
const MODEL_MISSING: [&str; 2] = ["model source `", "is missing in"];

/// Parts of a registry's answer that denies a pull.
const PULL_DENIED: [&str; 5] = ["401", "403", "denied", "unauthorized", "authorization failed"];

/// Reasons of the events by which a kubelet says that it cannot mount a volume.
const MOUNT_FAILED: [&str; 3] = ["FailedMount", "FailedAttachVolume", "FailedMapVolume"];

/// First words of the event by which a kubelet says that it has waited for a volume. Another event tells why.
const MOUNT_TIMED_OUT: &str = "Unable to attach or mount volumes";

/// Reason of the event by which a kubelet says that a pull secret does not exist. The kubelet goes on without it.
const NO_PULL_SECRET: &str = "FailedToRetrieveImagePullSecret";

/// Returns true if only events tell why `pod` does not start.
#[must_use]
pub fn needs_events(pod: &Pod) -> bool {
    let waits =
        |container| classify_wait(container).is_some_and(|(wait, _)| matches!(wait, Wait::Preparing | Wait::ImagePull));
    pod.metadata.deletion_timestamp.is_none() && containers(pod).any(waits)
}

/// Returns the first container that the kubelet cannot start.
pub(super) fn find_waiting_container(facts: &ClusterFacts<'_>) -> Option<Diagnosis> {
    let all = || live_pods(facts).flat_map(|pod| containers(pod).map(move |container| (pod, container)));
    let found = all().find_map(|(pod, container)| {
        let (wait, message) = classify_wait(container)?;
        let subject = Subject { cluster: facts.cluster, pod: pod_name(pod), object: &container.image, detail: "" };
        let diagnosis = match wait {
            Wait::Preparing | Wait::BackOff | Wait::Other => return None,
            Wait::ImageInvalid => Diagnosis::new(Reason::ImageInvalid, subject),
            Wait::ImageAbsent => Diagnosis::new(Reason::ImageAbsent, subject),
            Wait::ImagePull => match find_event(facts, pod, &[NO_PULL_SECRET]) {
                Some(event) => Diagnosis::new(Reason::PullSecretMissing, subject)
                    .with_evidence(event.message.clone().unwrap_or_default()),
                None if PULL_DENIED.iter().any(|word| message.contains(word)) => {
                    Diagnosis::new(Reason::ImagePullDenied, subject)
                }
                None => Diagnosis::new(Reason::ImageNotFound, subject),
            },
            Wait::Start => Diagnosis::new(Reason::ContainerCannotStart, Subject { object: &container.name, ..subject }),
        };
        Some(diagnosis.with_evidence(message))
    });
    found.or_else(|| find_unmounted_volume(facts))
}

/// Returns the first pod that waits for a volume.
fn find_unmounted_volume(facts: &ClusterFacts<'_>) -> Option<Diagnosis> {
    let prepares = |container| classify_wait(container).is_some_and(|(wait, _)| wait == Wait::Preparing);
    live_pods(facts).filter(|pod| containers(pod).any(prepares)).find_map(|pod| {
        let event = find_event(facts, pod, &MOUNT_FAILED)?;
        let subject = Subject { cluster: facts.cluster, pod: pod_name(pod), ..Subject::default() };
        let evidence = event.message.clone().unwrap_or_default();
        Some(Diagnosis::new(Reason::VolumeNotMounted, subject).with_evidence(evidence))
    })
}

/// Returns the newest event about `pod` with one of `reasons`. An event that names no cause comes last.
fn find_event<'a>(facts: &ClusterFacts<'a>, pod: &Pod, reasons: &[&str]) -> Option<&'a Event> {
    let about_pod = |event: &&&Event| {
        let same_uid = match (&event.involved_object.uid, &pod.metadata.uid) {
            (Some(event), Some(pod)) => event == pod,
            _ => true,
        };
        same_uid
            && event.involved_object.name == pod.metadata.name
            && event.reason.as_deref().is_some_and(|reason| reasons.contains(&reason))
    };
    let names_cause =
        |event: &Event| !event.message.as_deref().is_some_and(|message| message.starts_with(MOUNT_TIMED_OUT));
    facts.events.iter().filter(about_pod).max_by_key(|event| (names_cause(event), last_seen(event))).copied()
}

/// Returns the first container that crashes and does not run well since.
pub(super) fn find_crash(facts: &ClusterFacts<'_>) -> Option<Diagnosis> {
    let mut all: Vec<_> =
        live_pods(facts).flat_map(|pod| containers(pod).map(move |container| (pod, container))).collect();
    // A head may end because a rank did, so ranks come first.
    all.sort_by_key(|(_, container)| container.name != RANK);
    all.into_iter().find(|(_, container)| is_crashing(container)).map(|(pod, container)| {
        let end = pods::last_end(container);
        let crash = ContainerEnd {
            cluster: facts.cluster,
            pod: pod_name(pod),
            container: &container.name,
            exit_code: end.map_or(0, |end| end.exit_code),
            reason: end.and_then(|end| end.reason.as_deref()).unwrap_or_default(),
            log: end.and_then(|end| end.message.as_deref()).unwrap_or_default(),
            restarts: container.restart_count,
        };
        crash.diagnose()
    })
}

/// Returns true if `container` does not run because it crashed, or if it is not ready, has crashed more than once in
/// the life of its pod, and ran for less than 10 minutes before the last crash. One crash alone is no fault: the
/// kubelet starts the container again, and its group recovers.
fn is_crashing(container: &ContainerStatus) -> bool {
    if container.ready {
        return false;
    }
    if classify_wait(container).is_some_and(|(wait, _)| wait == Wait::BackOff) {
        return true;
    }
    let Some(end) = pods::last_end(container).filter(|end| end.exit_code != 0) else { return false };
    let has_terminated = pods::has_terminated(container);
    if has_terminated && end.reason.as_deref() == Some(OOM_KILLED) {
        return true;
    }
    let crashes = container.restart_count + i32::from(has_terminated);
    crashes >= 2 && !pods::ran_long(container)
}

/// End of a container, from its pod or from the cluster's status.
pub(super) struct ContainerEnd<'a> {
    pub cluster: &'a str,
    pub pod: &'a str,
    pub container: &'a str,
    pub exit_code: i32,
    /// Kubernetes' reason.
    pub reason: &'a str,
    /// Termination message or last log lines.
    pub log: &'a str,
    pub restarts: i32,
}

impl ContainerEnd<'_> {
    pub(super) fn diagnose(&self) -> Diagnosis {
        let code = self.exit_code;
        let line = last_log_line(self.log);
        let killed =
            if code == KILLED { ", killed from outside: by a probe, or for want of the node's memory" } else { "" };
        let (reason, detail) = if self.reason == OOM_KILLED {
            (Reason::OutOfMemory, format!("exit code {code}, {} restarts", self.restarts))
        } else if MODEL_MISSING.iter().any(|part| line.contains(part)) {
            (Reason::ModelNotFound, String::new())
        } else if line.contains(MODEL_UNUSABLE) {
            (Reason::ModelUnusable, String::new())
        } else {
            (Reason::CrashLoop, format!("exit code {code}{killed}; {} restarts so far", self.restarts))
        };
        let subject = Subject { cluster: self.cluster, pod: self.pod, object: self.container, detail: &detail };
        Diagnosis::new(reason, subject).with_evidence(line)
    }
}
