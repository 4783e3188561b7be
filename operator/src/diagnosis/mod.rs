//! Why a cluster does not serve: one reason, with its remedy, from what Kubernetes and the operator tell of it.
//!
//! Pure. Causes are tried from the root to the symptom, and the first that holds is the answer. "It serves" is said only
//! where the operator says so of the present spec and every pod agrees.

mod containers;
mod creation;
mod groups;
mod scheduling;
#[cfg(test)]
mod tests;
pub mod words;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::resource::status::condition;
use crate::resource::{InferenceCluster, InferenceClusterStatus};

/// How long the operator may take to take notice of a spec, in seconds.
const OPERATOR_PATIENCE: i64 = 30;

/// Reason of a cluster that serves.
pub const SERVING: &str = "Serving";

/// What is known of a cluster. Nodes and events may be left out where they cannot be read.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    pub cluster: &'a InferenceCluster,
    /// All pods of the cluster.
    pub pods: &'a [Pod],
    /// Events of its namespace.
    pub events: &'a [Event],
    /// Nodes that the pods run on.
    pub nodes: &'a [Node],
    pub now: Timestamp,
}

/// Why a cluster does not serve, or that it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// One word for programs.
    pub reason: &'static str,
    /// What is wrong, and where.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// What Kubernetes or the rank said, in its own words.
    pub evidence: Vec<String>,
}

impl Diagnosis {
    fn new(reason: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason, message: message.into(), remedy: remedy.into(), evidence: Vec::new() }
    }

    fn with(mut self, evidence: impl Into<String>) -> Self {
        let evidence = evidence.into();
        if !evidence.trim().is_empty() {
            self.evidence.push(evidence.trim().to_owned());
        }
        self
    }

    /// Whether the cluster serves all that was asked for.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.reason == SERVING
    }
}

/// The one reason why `seen.cluster` does not serve, or that it does.
#[must_use]
pub fn diagnose(seen: &Observed<'_>) -> Diagnosis {
    being_deleted(seen)
        .or_else(|| refused(seen))
        .or_else(|| operator_silent(seen))
        .or_else(|| serving(seen))
        .or_else(|| scaled_to_zero(seen))
        .or_else(|| creation::refused(seen))
        .or_else(|| containers::lost_node(seen))
        .or_else(|| scheduling::waiting(seen))
        .or_else(|| containers::cannot_start(seen))
        .or_else(|| containers::crashing(seen))
        .or_else(|| groups::stopped(seen))
        .or_else(|| groups::on_the_way(seen))
        .unwrap_or_else(|| unexplained(seen))
}

fn name(seen: &Observed<'_>) -> String {
    seen.cluster.metadata.name.clone().unwrap_or_default()
}

fn status<'a>(seen: &Observed<'a>) -> Option<&'a InferenceClusterStatus> {
    seen.cluster.status.as_ref()
}

/// The pod's name.
fn pod_name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("a pod")
}

fn being_deleted(seen: &Observed<'_>) -> Option<Diagnosis> {
    let since = seen.cluster.metadata.deletion_timestamp.as_ref()?;
    let message = format!("{} is being deleted since {}", name(seen), since.0);
    Some(Diagnosis::new("Deleting", message, "wait until it is gone, then apply it again if it should serve"))
}

/// The operator read the present spec and refuses it.
fn refused(seen: &Observed<'_>) -> Option<Diagnosis> {
    let ready = status(seen)?.conditions.iter().find(|found| found.type_ == condition::READY)?;
    if !["Invalid", "InvalidSpec"].contains(&ready.reason.as_str()) || stale(seen) {
        return None;
    }
    let remedy = "change the spec as it says and apply it again";
    Some(Diagnosis::new("Invalid", format!("the operator refuses the spec: {}", ready.message), remedy))
}

/// Whether the status is about an older spec, or there is none.
fn stale(seen: &Observed<'_>) -> bool {
    let observed = status(seen).and_then(|status| status.observed_generation);
    observed.is_none_or(|observed| observed < seen.cluster.metadata.generation.unwrap_or(0))
}

fn operator_silent(seen: &Observed<'_>) -> Option<Diagnosis> {
    if !stale(seen) {
        return None;
    }
    let changed = changed_at(seen);
    let waited = changed.map_or(0, |at| seen.now.as_second() - at.as_second());
    let message = match status(seen).and_then(|status| status.observed_generation) {
        Some(observed) => format!(
            "the operator has not taken up generation {} of the spec; its status is about generation {observed}",
            seen.cluster.metadata.generation.unwrap_or(0)
        ),
        None => format!("the operator has told nothing about it for {waited} s"),
    };
    if waited < OPERATOR_PATIENCE {
        return Some(Diagnosis::new("WaitingForOperator", message, "wait a few seconds and ask again"));
    }
    let remedy = "see that the operator runs and watches this namespace: kubectl get pods -A -l \
                  app.kubernetes.io/name=lockstep,app.kubernetes.io/component=operator, and read its logs; install it with \
                  `helm install lockstep charts/lockstep` where it is missing";
    Some(Diagnosis::new("OperatorNotRunning", message, remedy))
}

/// When anyone but the operator last changed the object.
fn changed_at(seen: &Observed<'_>) -> Option<Timestamp> {
    let fields = seen.cluster.metadata.managed_fields.iter().flatten();
    let spec = fields.filter(|field| field.subresource.is_none()).filter_map(|field| field.time.as_ref());
    let created = seen.cluster.metadata.creation_timestamp.as_ref();
    spec.chain(created).map(|time| time.0).max()
}

/// Whether condition `type_` of the pod is true.
fn holds(pod: &Pod, type_: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

fn serving(seen: &Observed<'_>) -> Option<Diagnosis> {
    let status = status(seen)?;
    let ready = status.conditions.iter().any(|found| found.type_ == condition::READY && found.status == "True");
    let spec = &seen.cluster.spec;
    let pods = usize::try_from(spec.replicas * (1 + spec.workers)).unwrap_or(usize::MAX);
    let agree = seen.pods.iter().filter(|pod| holds(pod, "Ready") && pod.metadata.deletion_timestamp.is_none());
    if !ready || spec.replicas == 0 || agree.count() < pods {
        return None;
    }
    let at = status.endpoint.as_deref().unwrap_or("its Service");
    let message =
        format!("{} serves at {at}: {} of {} groups are ready", name(seen), status.ready_replicas, spec.replicas);
    Some(Diagnosis::new(SERVING, message, format!("ask it: lockstep generate {} \"Once upon a time\"", name(seen))))
}

fn scaled_to_zero(seen: &Observed<'_>) -> Option<Diagnosis> {
    let remedy = format!("give it a group: kubectl scale icl {} --replicas=1", name(seen));
    (seen.cluster.spec.replicas == 0).then(|| Diagnosis::new("ScaledToZero", "spec.replicas is 0", remedy))
}

/// Nothing known holds: what the operator says, or that nothing can be said.
fn unexplained(seen: &Observed<'_>) -> Diagnosis {
    let ready = status(seen).and_then(|status| status.conditions.iter().find(|found| found.type_ == condition::READY));
    let said = match ready {
        Some(ready) if ready.status == "True" => "the operator calls it ready, but not all of its pods are".to_owned(),
        Some(ready) => format!("{}: {}", ready.reason, ready.message),
        None => "the operator gives no reason".to_owned(),
    };
    let remedy = format!("look closer: lockstep status {0}, lockstep logs {0}, kubectl describe icl {0}", name(seen));
    let unready = seen.pods.iter().filter(|pod| !holds(pod, "Ready")).map(|pod| pod_name(pod).to_owned());
    let mut diagnosis = Diagnosis::new("NotReady", said, remedy);
    let unready: Vec<_> = unready.collect();
    if !unready.is_empty() {
        diagnosis = diagnosis.with(format!("not ready: {}", unready.join(", ")));
    }
    diagnosis
}
