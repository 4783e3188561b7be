//! The StatefulSets of a group: one for the head pod, and one for the worker pods. Both use the update strategy
//! `OnDelete`, so that only the operator decides which pods restart, and when.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use lockstep_proto::names::env;

use super::{containers, pods, revision};
use crate::objects::{PodRole, annotation, label, labels};
use crate::plan::Names;
use crate::reconcile::validate::Validated;

/// Number of old templates that Kubernetes keeps. The operator itself needs none.
const HISTORY: i32 = 2;

/// Builds the StatefulSet of the head pod.
pub(super) fn head_set(cluster: &Validated, names: &Names) -> StatefulSet {
    build_set(cluster, names, PodRole::Head, 1)
}

/// Builds the StatefulSet of the worker pods, if the group has workers.
pub(super) fn worker_set(cluster: &Validated, names: &Names) -> Option<StatefulSet> {
    let workers = i32::try_from(cluster.spec.workers).unwrap_or(i32::MAX);
    (workers > 0).then(|| build_set(cluster, names, PodRole::Worker, workers))
}

fn build_set(cluster: &Validated, names: &Names, role: PodRole, replicas: i32) -> StatefulSet {
    let name = match role {
        PodRole::Head => names.head_set(),
        PodRole::Worker => names.worker_set(),
    };
    let mut labels = labels::group_labels(&cluster.identity.name, names.group(), Some(role));
    labels.extend(cluster.queue_labels.clone());
    let template = pods::pod_template(cluster, names, role);
    let revision = revision(&cluster.spec);
    labels.insert(label::REVISION.into(), revision.clone());
    let mut metadata = cluster.identity.metadata(name, labels);
    metadata.annotations = Some(BTreeMap::from([
        (annotation::REVISION.to_owned(), revision),
        (annotation::TEMPLATE.to_owned(), template_json(&template)),
    ]));
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some(names.group_name()),
            selector: labels::select_pods(&cluster.identity.name, Some(names.group()), Some(role)),
            // The pods can only start together, so no pod waits for another pod to be ready.
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), ..Default::default() }),
            revision_history_limit: Some(HISTORY),
            template,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn template_json(template: &PodTemplateSpec) -> String {
    serde_json::to_string(template).expect("a pod template has string keys only")
}

/// Returns the template of the pods of `live`, from the operator's annotation.
fn template_of(live: &StatefulSet) -> Option<PodTemplateSpec> {
    let json = live.metadata.annotations.as_ref()?.get(annotation::TEMPLATE)?;
    serde_json::from_str(json).ok()
}

/// Returns true if the pods of `live` take time to end only for the operator's own reasons: they have no container and
/// no hook of the user.
#[must_use]
pub fn ends_as_built(live: &StatefulSet) -> bool {
    let spec = template_of(live).and_then(|template| template.spec);
    spec.is_some_and(|spec| {
        spec.init_containers.iter().flatten().chain(&spec.containers).all(containers::ends_as_built)
    })
}

/// Returns the number of workers in the group of a head's StatefulSet, as the pods of `live` know it. `None` if the group
/// has no workers, or if the operator's annotation does not tell.
#[must_use]
pub fn workers_of(live: &StatefulSet) -> Option<u32> {
    let spec = template_of(live)?.spec?;
    let variables = spec.containers.iter().flat_map(|container| container.env.iter().flatten());
    let mut workers = variables.filter(|variable| variable.name == env::HEAD_NUM_WORKERS);
    workers.find_map(|workers| workers.value.as_ref()?.parse().ok()).filter(|workers| *workers > 0)
}

/// Returns true if the pods of `live` have the label that tells if their head is heard. Those of older operators lack it.
#[must_use]
pub fn is_marked(live: &StatefulSet) -> bool {
    let labels = template_of(live).and_then(|template| template.metadata?.labels);
    labels.is_some_and(|labels| labels.contains_key(label::HEARD))
}

/// Returns the revision of a StatefulSet's pods.
#[must_use]
pub fn revision_of(set: &StatefulSet) -> Option<&str> {
    set.metadata.annotations.as_ref()?.get(annotation::REVISION).map(String::as_str)
}

/// Returns `desired` with the pod template and the revision of `live`. If the revisions differ, the number of pods is
/// `pods`, that of the old revision.
///
/// Returns `desired` unchanged if `live` lacks the operator's annotations or if they cannot be parsed.
#[must_use]
pub fn keep_pods(mut desired: StatefulSet, live: &StatefulSet, pods: Option<u32>) -> StatefulSet {
    let json = live.metadata.annotations.as_ref().and_then(|all| all.get(annotation::TEMPLATE));
    let (Some(revision), Some(json)) = (revision_of(live), json) else { return desired };
    let Some(template) = template_of(live) else { return desired };
    let differs = revision_of(&desired) != Some(revision);
    let annotations = desired.metadata.annotations.get_or_insert_default();
    annotations.insert(annotation::TEMPLATE.into(), json.clone());
    annotations.insert(annotation::REVISION.into(), revision.into());
    desired.metadata.labels.get_or_insert_default().insert(label::REVISION.into(), revision.into());
    let spec = desired.spec.get_or_insert_default();
    spec.template = template;
    if differs {
        let own = live.spec.as_ref().and_then(|live| live.replicas);
        spec.replicas = pods.and_then(|pods| i32::try_from(pods).ok()).or(own).or(spec.replicas);
    }
    desired
}
