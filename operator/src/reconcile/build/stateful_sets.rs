//! The StatefulSets of a group: one for the head's pod, one for the workers'. Both are `OnDelete`: the operator alone
//! decides what restarts, and when.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::{pods, revision};
use crate::objects::{PodRole, annotation, label, labels};
use crate::plan::Names;
use crate::reconcile::validate::Validated;

/// Old templates that the API server keeps: the operator rolls by annotations and needs none.
const HISTORY: i32 = 2;

/// The head's set, of one pod.
pub(super) fn head(cluster: &Validated, names: &Names) -> StatefulSet {
    set(cluster, names, PodRole::Head, 1)
}

/// The workers' set, where the group has workers.
pub(super) fn workers(cluster: &Validated, names: &Names) -> Option<StatefulSet> {
    let workers = i32::try_from(cluster.spec.workers).unwrap_or(i32::MAX);
    (workers > 0).then(|| set(cluster, names, PodRole::Worker, workers))
}

fn set(cluster: &Validated, names: &Names, role: PodRole, replicas: i32) -> StatefulSet {
    let name = match role {
        PodRole::Head => names.head_set(),
        PodRole::Worker => names.worker_set(),
    };
    let mut own = labels::group_labels(&cluster.identity.name, names.group(), Some(role));
    own.extend(cluster.queue_labels.clone());
    let template = pods::template(cluster, names, role);
    let revision = revision(&cluster.spec);
    own.insert(label::REVISION.into(), revision.clone());
    let mut metadata = cluster.identity.metadata(name, own);
    metadata.annotations = Some(BTreeMap::from([
        (annotation::REVISION.to_owned(), revision),
        (annotation::TEMPLATE.to_owned(), written(&template)),
    ]));
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some(names.group_name()),
            selector: labels::select_pods(&cluster.identity.name, Some(names.group()), Some(role)),
            // One broken pod does not hold back the others, for they can only start together.
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), ..Default::default() }),
            revision_history_limit: Some(HISTORY),
            template,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn written(template: &PodTemplateSpec) -> String {
    serde_json::to_string(template).expect("a pod template has string keys only")
}

/// What the pods of `set` are made from.
#[must_use]
pub fn revision_of(set: &StatefulSet) -> Option<&str> {
    set.metadata.annotations.as_ref()?.get(annotation::REVISION).map(String::as_str)
}

/// `desired` with the pods that `live` has: its template and its revision. For a group whose turn has not come also
/// its number of pods, which belongs to the old revision; under one revision the number is as desired.
///
/// A `live` set without the operator's annotations, or with ones that cannot be read, is not kept.
#[must_use]
pub fn keep(mut desired: StatefulSet, live: &StatefulSet) -> StatefulSet {
    let written = live.metadata.annotations.as_ref().and_then(|all| all.get(annotation::TEMPLATE));
    let (Some(revision), Some(written)) = (revision_of(live), written) else { return desired };
    let Ok(template) = serde_json::from_str::<PodTemplateSpec>(written) else { return desired };
    let other = revision_of(&desired) != Some(revision);
    let annotations = desired.metadata.annotations.get_or_insert_default();
    annotations.insert(annotation::TEMPLATE.into(), written.clone());
    annotations.insert(annotation::REVISION.into(), revision.into());
    desired.metadata.labels.get_or_insert_default().insert(label::REVISION.into(), revision.into());
    let spec = desired.spec.get_or_insert_default();
    spec.template = template;
    if other {
        spec.replicas = live.spec.as_ref().and_then(|live| live.replicas).or(spec.replicas);
    }
    desired
}
