//! The last step: computes the whole status from the observed state, writes it, and publishes events of its changes.
//!
//! Invariants: one function computes all conditions. The transition time of a condition changes only with its status.
//! The operator does not write an unchanged status.

mod conditions;
mod events;
mod groups;
mod ranks;
#[cfg(test)]
mod tests;
mod write_budget;
mod written;

use std::time::Duration;

pub use events::Recorders;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use lockstep_proto::names::port;
use serde_json::json;
use tokio::time::Instant;
pub use write_budget::WriteBudget;
pub use written::WrittenStatuses;

use super::build::revision;
use super::groups::{Steps, pods_are_ready};
use super::observation::{GroupSeen, Observation};
use super::validate::{Invalid, Validated};
use super::{Context, ReconcileError};
use crate::diagnosis::{self, Diagnosis};
use crate::metrics::GroupSample;
use crate::objects::{FIELD_MANAGER, PodRole, labels};
use crate::plan::ClusterNames;
use crate::resource::status::{GroupStatus, MAX_RANKS, ModelFacts, Summary, condition};
use crate::resource::{InferenceCluster, InferenceClusterStatus};

/// A computed status.
pub(super) struct ComputedStatus {
    pub status: InferenceClusterStatus,
    /// True if no change is under way or expected.
    pub steady: bool,
}

/// Computes the status of a valid cluster. `error` is the failure of the apply step.
pub(super) fn compute(
    cluster: &Validated,
    object: &InferenceCluster,
    seen: &Observation,
    steps: &Steps,
    error: Option<&ReconcileError>,
) -> ComputedStatus {
    let wanted = cluster.spec.replicas;
    let groups: Vec<GroupStatus> = steps
        .iter()
        .map(|(&index, step)| groups::compute_group(cluster, object, seen.groups.get(&index), index, *step))
        .collect();
    let desired = revision(&cluster.spec);
    let names = ClusterNames::new(&cluster.identity.name);
    let host = names.service_host(&cluster.identity.namespace);
    let scheme = if cluster.spec.serving.has_tls() { "https" } else { "http" };
    let ready = groups.iter().filter(|group| group.ready && group.index < wanted as i32).count();
    let mut status = InferenceClusterStatus {
        observed_generation: Some(cluster.generation),
        conditions: Vec::new(),
        replicas: seen.groups.len() as i32,
        ready_replicas: ready as i32,
        updated_replicas: groups.iter().filter(|group| group.revision == desired).count() as i32,
        selector: Some(head_selector(&cluster.identity.name)),
        endpoint: Some(format!("{host}:{}", port::GRPC)),
        http_endpoint: Some(format!("{scheme}://{host}:{}/v1", port::HTTP)),
        backend: Some(cluster.collectives.as_str().into()),
        model: model_facts(cluster, object, seen),
        summary: None,
        groups,
    };
    // While every group serves, a fault of a pod delays no request, so the conditions do not show the fault.
    let all_serve = status.groups.iter().all(|group| group.ready);
    let fault = (!all_serve).then(|| find_fault(cluster, seen.groups.values(), &status.groups)).flatten();
    let facts = conditions::Facts { steps, fault: fault.as_ref(), error, taken_names: &seen.taken_names };
    status.conditions = conditions::compute_conditions(cluster, object, &status.groups, &facts);
    status.summary = Some(summarize(cluster, &status));
    // The operator follows the head until the pods are ready too. From then on, the readiness of the pods shows when
    // the group stops serving.
    let steady = error.is_none()
        && seen.groups.values().all(|group| pods_are_ready(cluster, group))
        && conditions::has_status(&status.conditions, condition::PROGRESSING, "False")
        && conditions::has_status(&status.conditions, condition::DEGRADED, "False");
    limit_ranks(&mut status.groups);
    ComputedStatus { status, steady }
}

/// Returns the first fault of `groups`. `statuses` tells which groups were stopped.
fn find_fault<'a>(
    cluster: &Validated,
    groups: impl Iterator<Item = &'a GroupSeen> + Clone,
    statuses: &[GroupStatus],
) -> Option<Diagnosis> {
    let pods: Vec<&Pod> = groups.clone().flat_map(|group| group.pods.values().map(AsRef::as_ref)).collect();
    let events: Vec<&Event> = groups.clone().flat_map(|group| &group.events).collect();
    let nodes = groups.flat_map(|group| &group.unready_nodes);
    let facts = diagnosis::ClusterFacts {
        cluster: &cluster.identity.name,
        spec: &cluster.spec,
        pods: &pods,
        events: &events,
        unready_nodes: &nodes.map(|(name, message)| (name.clone(), message.clone())).collect(),
        groups: statuses,
    };
    diagnosis::find_fault(&facts)
}

/// Computes the status of an invalid cluster, from which no objects can be built.
pub(super) fn compute_invalid(
    object: &InferenceCluster,
    seen: &Observation,
    invalid: &Invalid,
) -> InferenceClusterStatus {
    let mut status = object.status.clone().unwrap_or_default();
    status.observed_generation = object.metadata.generation;
    status.replicas = seen.groups.len() as i32;
    status.conditions = conditions::invalid_conditions(object, &invalid.to_string());
    let message = invalid.to_string();
    status.summary = Some(Summary { message, ..status.summary.unwrap_or_default() });
    status
}

/// Returns the selector for the scale subresource. It selects the heads, one for each group.
fn head_selector(cluster: &str) -> String {
    let pairs = labels::select_pods(cluster, None, Some(PodRole::Head)).match_labels.unwrap_or_default();
    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Returns the facts of the model that any head reports, or the facts of the last status.
fn model_facts(cluster: &Validated, object: &InferenceCluster, seen: &Observation) -> Option<ModelFacts> {
    let reported = seen
        .groups
        .values()
        .filter_map(|group| group.report.as_ref()?.status.model_info.as_ref())
        .find(|info| info.parameters > 0);
    let reported = reported.map(|info| ModelFacts {
        name: cluster.spec.model.name.clone().unwrap_or_else(|| info.name.clone()),
        architecture: info.architecture.clone(),
        parameters: info.parameters as i64,
        dtype: info.dtype.clone(),
        context_length: i64::from(info.context_length),
    });
    reported.or_else(|| object.status.as_ref()?.model.clone())
}

fn summarize(cluster: &Validated, status: &InferenceClusterStatus) -> Summary {
    let (serving, all) = status
        .groups
        .iter()
        .fold((0, 0), |(serving, all), group| (serving + group.serving_ranks, all + group.world_size));
    let ready = status.conditions.iter().find(|one| one.type_ == condition::READY);
    let message = ready.filter(|one| one.status != "True").map(|one| one.message.clone()).unwrap_or_default();
    Summary {
        groups: format!("{}/{}", status.ready_replicas, cluster.spec.replicas),
        ranks: format!("{serving}/{all}"),
        message,
    }
}

/// Drops ranks beyond `MAX_RANKS` to keep the object small. The ranks of serving groups are dropped first.
fn limit_ranks(groups: &mut [GroupStatus]) {
    let mut remaining = MAX_RANKS;
    let all: usize = groups.iter().map(|group| group.ranks.len()).sum();
    if all <= MAX_RANKS {
        return;
    }
    for group in groups.iter_mut().filter(|group| group.ready) {
        group.ranks.clear();
    }
    for group in groups {
        group.ranks.truncate(remaining);
        remaining -= group.ranks.len();
    }
}

/// Returns the samples of the groups for the metrics.
pub(super) fn sample_groups(seen: &Observation, status: &InferenceClusterStatus) -> Vec<GroupSample> {
    let sample = |group: &GroupStatus| {
        let index = u32::try_from(group.index).ok()?;
        Some(GroupSample {
            group: index,
            epoch: group.epoch,
            recoveries: group.recoveries,
            serves: group.ready,
            head_answers: seen.groups.get(&index)?.head_answers(),
        })
    };
    status.groups.iter().filter_map(sample).collect()
}

/// Writes `status` if it differs from the cluster's last status or from `shown`, which the watch shows, and publishes
/// events of the changes. The two differ while the watch is late, and if somebody else wrote a status. If the change may
/// wait and the budget of all clusters is spent, writes nothing and returns the time after which to try again.
///
/// # Errors
/// Fails if the API server refuses the request.
pub(super) async fn write(
    context: &Context,
    object: &InferenceCluster,
    shown: Option<&InferenceClusterStatus>,
    status: InferenceClusterStatus,
) -> Result<Option<Duration>, ReconcileError> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    context.metrics.record_status(&namespace, &name, &status);
    if [object.status.as_ref(), shown] == [Some(&status); 2] {
        return Ok(None);
    }
    let before = object.status.clone().unwrap_or_default();
    let changes = events::find_changes(&before, &status);
    if write_budget::may_wait(&before, &status, &changes) && !context.write_budget.take_write(Instant::now()) {
        return Ok(Some(write_budget::RETRY_AFTER));
    }
    let api: Api<InferenceCluster> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({ "apiVersion": "lockstep.dev/v1alpha1", "kind": "InferenceCluster", "status": status });
    context.metrics.count_request("patch");
    let written = api.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await;
    let written = match written {
        // The cluster was deleted meanwhile.
        Err(kube::Error::Api(refused)) if refused.code == 404 => return Ok(None),
        other => other.map_err(ReconcileError::Status)?,
    };
    // The status as the watch will show it: times have whole seconds.
    context.written.note(object, written.status);
    events::publish(context, object, changes).await;
    Ok(None)
}
