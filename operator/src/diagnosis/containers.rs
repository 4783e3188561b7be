//! Containers that cannot start, or that end: images, secrets, volumes, memory, crashes, nodes that are gone.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use super::creation::at;
use super::{Diagnosis, Observed, name, pod_name, words};
use crate::pods::{self, containers};

/// Exit status of a process that was killed with SIGKILL.
const KILLED: i32 = 137;

/// Words by which a rank says that its model is not there.
const MODEL_MISSING: [&str; 6] =
    ["no such model", "model not found", "config.json", "No such file or directory", "no such folder", "/models"];

/// A pod on a node that is not ready, or that Kubernetes takes away because of its node.
pub(super) fn lost_node(seen: &Observed<'_>) -> Option<Diagnosis> {
    seen.pods.iter().find_map(|pod| {
        let node = pod.spec.as_ref()?.node_name.as_deref()?;
        let known = seen.nodes.iter().find(|known| known.metadata.name.as_deref() == Some(node));
        let conditions = known.iter().flat_map(|node| node.status.iter()).flat_map(|s| s.conditions.iter().flatten());
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        let said = match ready {
            Some(ready) if ready.status != "True" => ready.message.clone().unwrap_or_default(),
            Some(_) => return None,
            None if pod.status.as_ref()?.reason.as_deref() == Some("NodeLost") => {
                pod.status.as_ref()?.message.clone().unwrap_or_default()
            }
            None => return None,
        };
        let message = format!("node {node}, which runs {}, is not ready", pod_name(pod));
        let remedy = format!(
            "bring {node} back or delete it (kubectl delete node {node}); the operator replaces the pod once Kubernetes lets \
             it go"
        );
        Some(Diagnosis::new("NodeLost", message, remedy).with(said))
    })
}

/// The first container that the kubelet cannot start.
pub(super) fn cannot_start(seen: &Observed<'_>) -> Option<Diagnosis> {
    let told = seen.pods.iter().find_map(|pod| {
        containers(pod).find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let said = waiting.message.as_deref().unwrap_or_default();
            Some(waits(seen, pod, container, waiting.reason.as_deref()?, said)?.with(said))
        })
    });
    told.or_else(|| mount(seen))
}

fn waits(seen: &Observed<'_>, pod: &Pod, container: &ContainerStatus, reason: &str, said: &str) -> Option<Diagnosis> {
    let (pod_name, image) = (pod_name(pod), container.image.as_str());
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" | "RegistryUnavailable" => {
            Some(image_not_there(seen, pod, image, reason, said))
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            let message = format!("container {} of {pod_name} cannot be started", container.name);
            let remedy = "create what the message names (a Secret, a ConfigMap, a key in one), or take it out of spec.env and \
                          spec.template";
            Some(Diagnosis::new("ContainerCannotStart", message, remedy))
        }
        _ => None,
    }
}

fn image_not_there(seen: &Observed<'_>, pod: &Pod, image: &str, reason: &str, said: &str) -> Diagnosis {
    // The kubelet goes on without a pull secret that is missing, and says so in an event alone.
    let no_secret = seen.events.iter().find(|event| {
        event.reason.as_deref() == Some("FailedToRetrieveImagePullSecret")
            && event.involved_object.name == pod.metadata.name
    });
    let pod = pod_name(pod);
    if reason == "InvalidImageName" {
        let message = format!("{image} is no image reference ({pod})");
        return Diagnosis::new("ImageInvalid", message, "set spec.image to REGISTRY/NAME:TAG");
    }
    if let Some(event) = no_secret {
        let message = format!("{pod} cannot pull {image}: a pull secret of it does not exist");
        let remedy = "create the secret in this namespace (kubectl create secret docker-registry), or correct \
                      spec.imagePullSecrets";
        return Diagnosis::new("PullSecretMissing", message, remedy).with(event.message.clone().unwrap_or_default());
    }
    let denied =
        ["401", "403", "denied", "unauthorized", "authorization failed"].iter().any(|word| said.contains(word));
    if denied {
        let message = format!("the registry does not let {pod} pull {image}");
        let remedy = "see that the image's name is right; if it is private, create a secret (kubectl create secret \
                      docker-registry) and name it in spec.imagePullSecrets";
        return Diagnosis::new("ImagePullDenied", message, remedy);
    }
    if reason == "ErrImageNeverPull" {
        let message = format!("{image} is not on the node of {pod}, and spec.imagePullPolicy forbids to pull it");
        return Diagnosis::new(
            "ImageNotFound",
            message,
            "load the image onto the nodes, or set spec.imagePullPolicy to IfNotPresent",
        );
    }
    let message = format!("{pod} cannot pull the image {image}");
    let remedy =
        "correct spec.image (or the operator's --agent-image), push the image, or see that nodes reach the registry";
    Diagnosis::new("ImageNotFound", message, remedy)
}

/// A pod that waits for a volume.
fn mount(seen: &Observed<'_>) -> Option<Diagnosis> {
    let waits = |pod: &&Pod| {
        containers(pod).any(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            waiting
                .and_then(|waiting| waiting.reason.as_deref())
                .is_some_and(|reason| ["ContainerCreating", "PodInitializing"].contains(&reason))
        })
    };
    seen.pods.iter().filter(waits).find_map(|pod| {
        let of_pod = seen.events.iter().filter(|event| event.involved_object.name == pod.metadata.name);
        let failed = ["FailedMount", "FailedAttachVolume", "FailedMapVolume"];
        let event = of_pod
            .filter(|event| event.reason.as_deref().is_some_and(|reason| failed.contains(&reason)))
            .max_by_key(|event| at(event))?;
        let message = format!("a volume of {} cannot be mounted", pod_name(pod));
        let remedy = "see that the claim, Secret or volume that the message names exists and can be used on that node";
        Some(Diagnosis::new("VolumeNotMounted", message, remedy).with(event.message.clone().unwrap_or_default()))
    })
}

/// How a container ended last, where it does not run well since.
fn ended(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    if container.ready {
        return None;
    }
    pods::last_end(container).filter(|end| end.exit_code != 0)
}

/// The first container that ended without being asked to and is not well again.
pub(super) fn crashing(seen: &Observed<'_>) -> Option<Diagnosis> {
    // A head may end because a rank did: ranks speak first.
    let mut all: Vec<_> = seen.pods.iter().flat_map(|pod| containers(pod).map(move |one| (pod, one))).collect();
    all.sort_by_key(|(_, container)| container.name != "rank");
    all.into_iter().find_map(|(pod, container)| {
        let end = ended(container)?;
        let crash = Ended {
            cluster: &name(seen),
            pod: pod_name(pod),
            container: &container.name,
            code: end.exit_code,
            reason: end.reason.as_deref().unwrap_or_default(),
            said: end.message.as_deref().unwrap_or_default(),
            restarts: container.restart_count,
        };
        Some(crash.diagnosis())
    })
}

/// The end of a container, from its pod or from the cluster's status.
pub(super) struct Ended<'a> {
    pub cluster: &'a str,
    pub pod: &'a str,
    pub container: &'a str,
    pub code: i32,
    pub reason: &'a str,
    /// Termination message or last log lines.
    pub said: &'a str,
    pub restarts: i32,
}

impl Ended<'_> {
    pub(super) fn diagnosis(&self) -> Diagnosis {
        let (pod, container, code) = (self.pod, self.container, self.code);
        let last = last_line(self.said);
        if self.reason == "OOMKilled" {
            let message = format!("container {container} of {pod} was killed for want of memory (exit code {code})");
            let remedy = "raise spec.resources.limits.memory, lower spec.serving.kvCacheMemory or spec.serving.contextLength, or \
                          spread the model over more workers";
            return Diagnosis::new("OutOfMemory", message, remedy).with(last);
        }
        if MODEL_MISSING.iter().any(|words| last.contains(words)) {
            let message = format!("{pod} does not find the model");
            let remedy =
                "correct spec.model.source, or put the model (config.json, tokenizer, weights) where it points";
            return Diagnosis::new("ModelNotFound", message, remedy).with(last);
        }
        let killed =
            if code == KILLED { ", killed from outside: by a probe, or for want of the node's memory" } else { "" };
        let message = format!(
            "container {container} of {pod} ended with exit code {code}{killed}; {} restarts so far",
            self.restarts
        );
        let remedy = format!(
            "read what it said: lockstep logs {} --previous; then change the spec it complains of",
            self.cluster
        );
        Diagnosis::new("CrashLoop", message, remedy).with(last)
    }
}

/// The last line said, and the message alone where it is a line of JSON.
fn last_line(said: &str) -> String {
    let line = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    words::readable(line).unwrap_or_else(|| line.to_owned())
}
