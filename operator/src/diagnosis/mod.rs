//! The diagnosis of a cluster that does not serve: one reason with its remedy. The operator's conditions, its events and
//! `lockstep why` all take the reason from here, so the same objects give the same word everywhere.
//!
//! Pure. The checks run from the root to the symptom, and the first that finds something gives the answer. `Serving` is
//! the answer only if the operator says so of the present spec and every pod agrees.

mod containers;
mod creation;
mod groups;
mod nodes;
mod reason;
mod scheduling;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

pub use containers::needs_events;
pub use creation::last_seen;
pub use groups::describe_progress;
pub use nodes::list_unready_nodes;
pub use reason::Reason;
use reason::Subject;

use crate::pods;
use crate::resource::status::{GroupStatus, condition};
use crate::resource::{InferenceCluster, InferenceClusterSpec, InferenceClusterStatus};

/// Seconds that the operator may take to notice a spec.
const OPERATOR_SECONDS: i64 = 30;

/// State of a cluster, with its cause and its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// State in one word.
    pub reason: Reason,
    /// Sentence that names the fault and the object at fault.
    pub message: String,
    /// Action that ends the fault.
    pub remedy: String,
    /// Messages of Kubernetes or of the rank, as they were given.
    pub evidence: Vec<String>,
}

impl Diagnosis {
    fn new(reason: Reason, subject: Subject<'_>) -> Self {
        Self { reason, message: reason.text(subject), remedy: reason.remedy(subject), evidence: Vec::new() }
    }

    fn with_evidence(mut self, evidence: impl Into<String>) -> Self {
        let evidence = evidence.into();
        if !evidence.trim().is_empty() {
            self.evidence.push(evidence.trim().to_owned());
        }
        self
    }

    /// Returns true if the cluster serves all that was asked for.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.reason == Reason::Serving
    }

    /// Returns the message and the evidence in one line, for a condition.
    #[must_use]
    pub fn summary(&self) -> String {
        let parts = std::iter::once(&self.message).chain(&self.evidence).map(String::as_str);
        parts.collect::<Vec<_>>().join(": ")
    }
}

/// Facts about the pods of a cluster, or of one group, that the operator and `lockstep why` both have.
#[derive(Debug, Clone, Copy)]
pub struct ClusterFacts<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    pub spec: &'a InferenceClusterSpec,
    pub pods: &'a [&'a Pod],
    /// Events about the pods and their StatefulSets. Events about other objects do no harm.
    pub events: &'a [&'a Event],
    /// Message of each Kubernetes node that is not ready, by the name of the Kubernetes node.
    pub unready_nodes: &'a BTreeMap<String, String>,
    /// Status of each group, as far as it is known.
    pub groups: &'a [GroupStatus],
}

/// Returns the first fault of `facts`, from the root to the symptom. The result may also be a state that passes by
/// itself, such as [`Reason::Queued`].
#[must_use]
pub fn find_fault(facts: &ClusterFacts<'_>) -> Option<Diagnosis> {
    groups::find_stopped_group(facts)
        .or_else(|| creation::find_refusal(facts))
        .or_else(|| nodes::find_lost_node(facts))
        .or_else(|| scheduling::find_unscheduled_pod(facts))
        .or_else(|| nodes::find_failed_pod(facts))
        .or_else(|| containers::find_waiting_container(facts))
        .or_else(|| containers::find_crash(facts))
}

/// Objects of a cluster as `lockstep why` reads them. Kubernetes nodes and events are missing if the user may not read
/// them.
#[derive(Debug, Clone, Copy)]
pub struct ClusterSnapshot<'a> {
    pub cluster: &'a InferenceCluster,
    /// All pods of the cluster.
    pub pods: &'a [Pod],
    /// Events of the cluster's namespace.
    pub events: &'a [Event],
    /// Kubernetes nodes that the pods run on.
    pub nodes: &'a [Node],
    pub now: Timestamp,
}

/// Returns the state of a cluster, with its cause and its remedy.
#[must_use]
pub fn diagnose(objects: &ClusterSnapshot<'_>) -> Diagnosis {
    let name = objects.cluster.metadata.name.as_deref().unwrap_or_default();
    let view = View { objects, name };
    let pods: Vec<_> = objects.pods.iter().collect();
    let events: Vec<_> = objects.events.iter().collect();
    let groups = view.status().map(|status| status.groups.as_slice()).unwrap_or_default();
    let spec = &objects.cluster.spec;
    let unready_nodes = list_unready_nodes(objects.nodes.iter());
    let facts =
        ClusterFacts { cluster: name, spec, pods: &pods, events: &events, unready_nodes: &unready_nodes, groups };
    view.find_deletion()
        .or_else(|| view.find_refusal())
        .or_else(|| view.find_silent_operator())
        .or_else(|| view.confirm_serving())
        .or_else(|| view.find_zero_replicas())
        .or_else(|| find_fault(&facts))
        .or_else(|| describe_progress(name, spec.replicas, groups))
        .unwrap_or_else(|| view.describe_unknown())
}

/// Returns the diagnosis of a cluster with no replicas.
#[must_use]
pub fn describe_zero_replicas(cluster: &str) -> Diagnosis {
    Diagnosis::new(Reason::ScaledToZero, Subject { cluster, ..Subject::default() })
}

/// Returns the diagnosis of a fault that the operator alone sees: [`Reason::InvalidSpec`], [`Reason::NameTaken`] or
/// [`Reason::ApiServerRefused`]. `detail` is the operator's message.
#[must_use]
pub fn describe_refusal(reason: Reason, cluster: &str, detail: &str) -> Diagnosis {
    Diagnosis::new(reason, Subject { cluster, detail, ..Subject::default() })
}

/// The objects of one cluster, with its name.
struct View<'a> {
    objects: &'a ClusterSnapshot<'a>,
    name: &'a str,
}

impl<'a> View<'a> {
    fn status(&self) -> Option<&'a InferenceClusterStatus> {
        self.objects.cluster.status.as_ref()
    }

    fn ready_condition(&self) -> Option<&'a Condition> {
        self.status()?.conditions.iter().find(|found| found.type_ == condition::READY)
    }

    fn diagnosis(&self, reason: Reason, object: &str, detail: &str) -> Diagnosis {
        Diagnosis::new(reason, Subject { cluster: self.name, pod: "", object, detail })
    }

    fn find_deletion(&self) -> Option<Diagnosis> {
        let since = self.objects.cluster.metadata.deletion_timestamp.as_ref()?;
        Some(self.diagnosis(Reason::Deleting, "", &since.0.to_string()))
    }

    /// Returns a fault that only the operator sees, from its condition about the present spec.
    fn find_refusal(&self) -> Option<Diagnosis> {
        let ready = self.ready_condition().filter(|_| !self.is_stale())?;
        let seen_by_operator = [Reason::InvalidSpec, Reason::NameTaken, Reason::ApiServerRefused];
        let reason = seen_by_operator.into_iter().find(|reason| reason.as_str() == ready.reason)?;
        let remedy = reason.remedy(Subject { cluster: self.name, ..Subject::default() });
        Some(Diagnosis { reason, message: ready.message.clone(), remedy, evidence: Vec::new() })
    }

    /// Returns true if the status is about an older spec, or if there is none.
    fn is_stale(&self) -> bool {
        let observed = self.status().and_then(|status| status.observed_generation);
        observed.is_none_or(|observed| observed < self.objects.cluster.metadata.generation.unwrap_or(0))
    }

    fn find_silent_operator(&self) -> Option<Diagnosis> {
        if !self.is_stale() {
            return None;
        }
        let waited = self.spec_changed_at().map_or(0, |at| self.objects.now.as_second() - at.as_second());
        let detail = match self.status().and_then(|status| status.observed_generation) {
            Some(observed) => format!(
                "the operator has not taken up generation {} of the spec; its status is about generation {observed}",
                self.objects.cluster.metadata.generation.unwrap_or(0)
            ),
            None => format!("the operator has written no status for {waited} s"),
        };
        let reason = if waited < OPERATOR_SECONDS { Reason::WaitingForOperator } else { Reason::OperatorNotRunning };
        Some(self.diagnosis(reason, "", &detail))
    }

    /// Returns the time of the last change by anyone but the operator.
    fn spec_changed_at(&self) -> Option<Timestamp> {
        let metadata = &self.objects.cluster.metadata;
        let fields = metadata.managed_fields.iter().flatten();
        let spec = fields.filter(|field| field.subresource.is_none()).filter_map(|field| field.time.as_ref());
        spec.chain(metadata.creation_timestamp.as_ref()).map(|time| time.0).max()
    }

    fn confirm_serving(&self) -> Option<Diagnosis> {
        let status = self.status()?;
        let spec = &self.objects.cluster.spec;
        let wanted = usize::try_from(spec.replicas * (1 + spec.workers)).unwrap_or(usize::MAX);
        let is_ready = |pod: &&Pod| pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
        let says_ready = self.ready_condition().is_some_and(|ready| ready.status == "True");
        if !says_ready || spec.replicas == 0 || self.objects.pods.iter().filter(is_ready).count() < wanted {
            return None;
        }
        let address = status.endpoint.as_deref().unwrap_or("its Service");
        let groups = format!("{} of {} groups are ready", status.ready_replicas, spec.replicas);
        Some(self.diagnosis(Reason::Serving, address, &groups))
    }

    fn find_zero_replicas(&self) -> Option<Diagnosis> {
        (self.objects.cluster.spec.replicas == 0).then(|| describe_zero_replicas(self.name))
    }

    /// Returns the operator's condition, for a cluster in which no check finds a cause.
    fn describe_unknown(&self) -> Diagnosis {
        let detail = match self.ready_condition() {
            Some(ready) if ready.status == "True" => {
                "the operator calls it ready, but not all of its pods are".to_owned()
            }
            Some(ready) => format!("{}: {}", ready.reason, ready.message),
            None => "the operator gives no reason".to_owned(),
        };
        let unready: Vec<_> = self.objects.pods.iter().filter(|pod| !pods::is_ready(pod)).map(pod_name).collect();
        let evidence = if unready.is_empty() { String::new() } else { format!("not ready: {}", unready.join(", ")) };
        self.diagnosis(Reason::NotReady, "", &detail).with_evidence(evidence)
    }
}

/// Returns the name of `pod`.
fn pod_name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("a pod")
}

/// Iterates over the pods that are not being deleted.
fn live_pods<'a>(facts: &ClusterFacts<'a>) -> impl Iterator<Item = &'a Pod> {
    facts.pods.iter().copied().filter(|pod| pod.metadata.deletion_timestamp.is_none())
}
