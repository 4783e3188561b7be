//! The last step: the status, computed whole from what is observed, and the events of what changed in it.
//!
//! Invariant: one function makes all conditions; a condition's time changes with its status alone; what is the same is not
//! written again.

mod conditions;
mod events;
mod groups;
mod pace;
mod ranks;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

pub use events::Recorders;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use lockstep_proto::names::port;
pub use pace::Pace;
use serde_json::json;

use super::build::revision;
use super::dereference::{GroupSeen, Observation};
use super::groups::{Steps, shown_by_pods};
use super::validate::{Invalid, Validated};
use super::{Context, ReconcileError};
use crate::diagnosis::{self, Diagnosis};
use crate::objects::{FIELD_MANAGER, PodRole, labels};
use crate::plan::ClusterNames;
use crate::resource::status::{GroupStatus, MAX_RANKS, ModelFacts, Summary, condition};
use crate::resource::{InferenceCluster, InferenceClusterStatus};

/// A status, and whether nothing more is expected to happen.
pub(super) struct Told {
    pub status: InferenceClusterStatus,
    pub steady: bool,
}

/// The status of a cluster with these groups and steps; `error`: what the API server refused.
pub(super) fn of(
    cluster: &Validated,
    object: &InferenceCluster,
    seen: &Observation,
    steps: &Steps,
    error: Option<&ReconcileError>,
) -> Told {
    let wanted = cluster.spec.replicas;
    let groups: Vec<GroupStatus> =
        steps.iter().map(|(&index, step)| groups::of(cluster, object, seen.groups.get(&index), index, *step)).collect();
    let desired = revision(&cluster.spec);
    let names = ClusterNames::new(&cluster.identity.name);
    let host = names.service_host(&cluster.identity.namespace);
    let ready = groups.iter().filter(|group| group.ready && group.index < wanted as i32).count();
    let mut status = InferenceClusterStatus {
        observed_generation: Some(cluster.generation),
        conditions: Vec::new(),
        replicas: seen.groups.len() as i32,
        ready_replicas: ready as i32,
        updated_replicas: groups.iter().filter(|group| group.revision == desired).count() as i32,
        selector: Some(selector(&cluster.identity.name)),
        endpoint: Some(format!("{host}:{}", port::GRPC)),
        http_endpoint: Some(format!("http://{host}:{}/v1", port::HTTP)),
        backend: Some(cluster.collectives.as_str().into()),
        model: facts(cluster, object, seen),
        summary: None,
        groups,
    };
    // While every group serves, a pod that is not well keeps no request from being answered.
    let all_serve = status.groups.iter().all(|group| group.ready);
    let fault = (!all_serve).then(|| find_fault(cluster, seen.groups.values(), &status.groups)).flatten();
    let facts = conditions::Facts { steps, fault: fault.as_ref(), error, taken: &seen.taken };
    status.conditions = conditions::of(cluster, object, &status.groups, &facts);
    status.summary = Some(summary(cluster, &status));
    // The head is listened to until the pods show what it says: then they are enough to tell when that ends.
    let steady = error.is_none()
        && seen.groups.values().all(|group| shown_by_pods(cluster, group))
        && conditions::holds(&status.conditions, condition::PROGRESSING, "False")
        && conditions::holds(&status.conditions, condition::DEGRADED, "False");
    bounded(&mut status.groups);
    Told { status, steady }
}

/// Returns the first fault of `groups`; `statuses` says which of them were stopped.
fn find_fault<'a>(
    cluster: &Validated,
    groups: impl Iterator<Item = &'a GroupSeen> + Clone,
    statuses: &[GroupStatus],
) -> Option<Diagnosis> {
    let pods: Vec<&Pod> = groups.clone().flat_map(|group| group.pods.values().map(AsRef::as_ref)).collect();
    let events: Vec<&Event> = groups.clone().flat_map(|group| &group.events).collect();
    let nodes = groups.flat_map(|group| &group.unready_nodes);
    let facts = diagnosis::Facts {
        cluster: &cluster.identity.name,
        spec: &cluster.spec,
        pods: &pods,
        events: &events,
        unready_nodes: &nodes.map(|(name, message)| (name.clone(), message.clone())).collect(),
        groups: statuses,
    };
    diagnosis::find_fault(&facts)
}

/// The status of a cluster of which nothing can be made.
pub(super) fn invalid(object: &InferenceCluster, seen: &Observation, invalid: &Invalid) -> InferenceClusterStatus {
    let mut status = object.status.clone().unwrap_or_default();
    status.observed_generation = object.metadata.generation;
    status.replicas = seen.groups.len() as i32;
    status.conditions = conditions::invalid(object, &invalid.to_string());
    let message = invalid.to_string();
    status.summary = Some(Summary { message, ..status.summary.unwrap_or_default() });
    status
}

/// As the scale subresource wants it: heads only, one for each group.
fn selector(cluster: &str) -> String {
    let pairs = labels::select_pods(cluster, None, Some(PodRole::Head)).match_labels.unwrap_or_default();
    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// What any head says of the model, or said before.
fn facts(cluster: &Validated, object: &InferenceCluster, seen: &Observation) -> Option<ModelFacts> {
    let said = seen
        .groups
        .values()
        .filter_map(|group| group.report.as_ref()?.status.model_info.as_ref())
        .find(|info| info.parameters > 0);
    let said = said.map(|info| ModelFacts {
        name: cluster.spec.model.name.clone().unwrap_or_else(|| info.name.clone()),
        architecture: info.architecture.clone(),
        parameters: info.parameters as i64,
        dtype: info.dtype.clone(),
        context_length: i64::from(info.context_length),
    });
    said.or_else(|| object.status.as_ref()?.model.clone())
}

fn summary(cluster: &Validated, status: &InferenceClusterStatus) -> Summary {
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

/// Keeps the object small: ranks of serving groups are left out first.
fn bounded(groups: &mut [GroupStatus]) {
    let mut left = MAX_RANKS;
    let all: usize = groups.iter().map(|group| group.ranks.len()).sum();
    if all <= MAX_RANKS {
        return;
    }
    for group in groups.iter_mut().filter(|group| group.ready) {
        group.ranks.clear();
    }
    for group in groups {
        group.ranks.truncate(left);
        left -= group.ranks.len();
    }
}

/// Writes `status` where it differs from what the cluster has, and tells what changed. Where it is a step that may wait
/// and many clusters take steps, it is not written; the time after which to look again is returned.
///
/// # Errors
/// The API server refuses.
pub(super) async fn write(
    context: &Context,
    object: &InferenceCluster,
    status: InferenceClusterStatus,
) -> Result<Option<Duration>, ReconcileError> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    context.metrics.observe(&namespace, &name, &status);
    if object.status.as_ref() == Some(&status) {
        return Ok(None);
    }
    let before = object.status.clone().unwrap_or_default();
    let news = events::news(&before, &status);
    if pace::may_wait(&before, &status, &news) && !context.pace.take(Instant::now()) {
        return Ok(Some(pace::AGAIN));
    }
    let api: Api<InferenceCluster> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({ "apiVersion": "lockstep.dev/v1alpha1", "kind": "InferenceCluster", "status": status });
    context.metrics.request("patch");
    let written = api.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&patch)).await;
    match written {
        // Deleted meanwhile.
        Err(kube::Error::Api(refused)) if refused.code == 404 => return Ok(None),
        other => other.map_err(ReconcileError::Status)?,
    };
    events::tell(context, object, news).await;
    Ok(None)
}
