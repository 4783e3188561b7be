//! Pods that no node takes: the scheduler's words, and what would satisfy it.

use k8s_openapi::api::core::v1::Pod;

use super::{Diagnosis, Observed, pod_name};

/// The first pod that the scheduler cannot place.
pub(super) fn waiting(seen: &Observed<'_>) -> Option<Diagnosis> {
    seen.pods.iter().find_map(|pod| {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let scheduled = conditions.iter().find(|found| found.type_ == "PodScheduled" && found.status == "False")?;
        let said = scheduled.message.as_deref().unwrap_or_default();
        if scheduled.reason.as_deref() == Some("SchedulingGated") {
            let remedy = "wait for the queue (Kueue) that holds it, or remove its scheduling gates";
            return Some(
                Diagnosis::new("Queued", format!("{} is held by a scheduling gate", pod_name(pod)), remedy).with(said),
            );
        }
        Some(reason(pod, said).with(said))
    })
}

fn reason(pod: &Pod, said: &str) -> Diagnosis {
    let pod = pod_name(pod);
    if let Some(claim) = missing_claim(said) {
        let message = format!("{pod} needs the PersistentVolumeClaim {claim}, which does not exist");
        return Diagnosis::new(
            "ClaimMissing",
            message,
            format!("create the claim {claim} in this namespace, or name another one"),
        );
    }
    if said.contains("unbound immediate PersistentVolumeClaims") {
        let message = format!("{pod} waits for a volume that is not bound");
        return Diagnosis::new(
            "VolumeUnbound",
            message,
            "see kubectl describe pvc: the storage class must exist and have room",
        );
    }
    if let Some(rest) = said.split("Insufficient ").nth(1) {
        // A resource's own name may hold dots.
        let resource = rest.split([',', ' ', ';']).next().unwrap_or_default();
        return insufficient(pod, resource.trim_end_matches('.'));
    }
    let taints = said.contains("untolerated taint");
    if taints && !said.contains("affinity") {
        let message = format!("no node takes {pod}: their taints are not tolerated");
        return Diagnosis::new(
            "TaintNotTolerated",
            message,
            "add tolerations to spec.template.spec.tolerations, or untaint nodes",
        );
    }
    if said.contains("affinity") || said.contains("topology spread") {
        let message = format!("no node takes {pod}: none matches its node selector, affinity or spread");
        let remedy = "label nodes as spec.template asks, change it, or set spec.placement.policy to Spread or Any";
        return Diagnosis::new("NoMatchingNode", message, remedy);
    }
    let remedy = "do what the scheduler's message asks: free room, or change spec.resources or spec.template";
    Diagnosis::new("Unschedulable", format!("the scheduler finds no node for {pod}"), remedy)
}

/// The claim that the scheduler says it cannot find.
fn missing_claim(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("persistentvolumeclaim \"")?;
    let (claim, after) = rest.split_once('"')?;
    after.trim_start().starts_with("not found").then_some(claim)
}

fn insufficient(pod: &str, resource: &str) -> Diagnosis {
    let message = format!("no node has enough free {resource} for {pod}");
    let remedy = match resource {
        "cpu" | "memory" | "ephemeral-storage" => {
            "add nodes or free some, or ask for less in spec.resources, spec.workers or spec.replicas".to_owned()
        }
        "pods" => "add nodes: those there hold as many pods as they may".to_owned(),
        _ => format!(
            "see what nodes offer: kubectl get nodes -o custom-columns=NAME:.metadata.name,HAS:.status.allocatable; without \
             {resource} there, install its device plugin or add such nodes; else free some, lower spec.devicesPerNode or \
             spec.workers, or set spec.backend to Ring to run on CPUs"
        ),
    };
    Diagnosis::new("InsufficientResources", message, remedy)
}
