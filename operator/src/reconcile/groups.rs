//! Each group's step: the facts that `rollout` decides by, and the carrying out of what it decided.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;

use super::apply::{Delete, apply, delete, delete_seen};
use super::build::{GroupObjects, group_objects, revision, revision_of};
use super::dereference::{GroupSeen, Observation};
use super::validate::Validated;
use super::{Context, ReconcileError, elapsed};
use crate::heads::GroupKey;
use crate::objects::label;
use crate::plan::Names;
use crate::pods;
use crate::resource::InferenceCluster;
use crate::resource::status::GroupStatus;
use crate::rollout::{self, GroupRollout, Step, Wanted};

/// What is done with each group.
pub type Steps = BTreeMap<u32, Step>;

/// Decides from what is seen, and from what the status remembers of drains and stops.
#[must_use]
pub fn decide(cluster: &Validated, object: &InferenceCluster, seen: &Observation) -> Steps {
    let strategy = &cluster.spec.update_strategy;
    let wanted = Wanted {
        revision: revision(&cluster.spec),
        generation: cluster.generation,
        replicas: cluster.spec.replicas,
        max_unavailable: strategy.max_unavailable,
        partition: strategy.partition,
        drain_timeout: cluster.drain_timeout,
    };
    let groups = seen.groups.iter().map(|(&index, group)| {
        let before = before(object, index);
        (index, facts(cluster, group, before))
    });
    rollout::decide(&wanted, &groups.collect())
}

/// What the status said of a group.
pub(super) fn before(object: &InferenceCluster, index: u32) -> Option<&GroupStatus> {
    object.status.as_ref()?.groups.iter().find(|group| group.index == index as i32)
}

/// Whether the pods' own probes show that every rank serves: a worker's tells whether its ranks serve in the current
/// epoch, a head's whether it takes requests. They lag behind what the head says by seconds.
pub(super) fn shown_by_pods(cluster: &Validated, group: &GroupSeen) -> bool {
    let shows = |pod: &Pod| pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
    let mut nodes = 0..=cluster.spec.workers.max(group.workers());
    nodes.all(|node| group.pods.get(&node).is_some_and(|pod| shows(pod)))
}

/// Whether every rank of the group serves: as its head says, and where it is not listened to, as its pods show.
pub(super) fn serves(cluster: &Validated, group: &GroupSeen) -> bool {
    match &group.report {
        Some(report) if report.live => report.status.ready && group.head().is_some(),
        Some(report) => report.status.ready && shown_by_pods(cluster, group),
        None => shown_by_pods(cluster, group),
    }
}

fn facts(cluster: &Validated, group: &GroupSeen, before: Option<&GroupStatus>) -> GroupRollout {
    let of_head = group.head_set.as_deref().and_then(revision_of);
    let of_workers = group.worker_set.as_deref().and_then(revision_of);
    // Half-way through a change the sets differ: then the group is of neither, and the change goes on.
    let revision = match (of_head, of_workers) {
        (Some(head), Some(workers)) if head != workers => String::new(),
        (Some(one), _) | (None, Some(one)) => one.to_owned(),
        (None, None) => String::new(),
    };
    let outdated =
        |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && pod.labels().get(label::REVISION) != Some(&revision);
    let expected = 1 + group.workers().max(if group.worker_set.is_some() { 0 } else { cluster.spec.workers });
    let scheduled = group.pods.values().filter(|pod| pods::kube_node(pod).is_some()).count();
    let live = group.live();
    let draining = live.filter(|report| report.status.draining);
    let serves = serves(cluster, group);
    let head_ready = group.head().is_some_and(|pod| pods::is_ready(pod));
    GroupRollout {
        outdated_pods: group.pods.values().any(|pod| outdated(pod)),
        scheduled: scheduled >= expected as usize,
        ready: serves,
        taking_requests: live.map_or(head_ready, |report| report.status.accepting || report.status.draining),
        draining: draining.map(|report| u64::from(report.status.running) + u64::from(report.status.waiting)),
        drained_for: before.and_then(|before| before.draining_since.as_ref()).map(|since| elapsed(since.0)),
        budget_spent: !serves && group.pods.values().any(|pod| pods::is_budget_spent(pod, cluster.spec.restart_budget)),
        stopped_at: before.and_then(|before| before.stopped_at_generation),
        revision,
    }
}

/// Carries out `step` for the group at `index`.
///
/// # Errors
/// The API server refuses something.
pub(super) async fn take(
    context: &Context,
    cluster: &Validated,
    group: Option<&GroupSeen>,
    index: u32,
    step: Step,
) -> Result<(), ReconcileError> {
    let empty = GroupSeen::default();
    let group = group.unwrap_or(&empty);
    let wanted = || group_objects(cluster, index);
    let kept = || wanted().kept(group.head_set.as_deref(), group.worker_set.as_deref());
    match step {
        Step::Wait => Ok(()),
        Step::Create => bring(context, cluster, &wanted()).await,
        Step::Keep => bring(context, cluster, &kept()).await,
        Step::Stop => bring(context, cluster, &without_pods(kept())).await,
        Step::Drain => {
            if index < cluster.spec.replicas {
                bring(context, cluster, &kept()).await?;
            }
            let key = GroupKey::new(&cluster.identity.namespace, &cluster.identity.name, index);
            let reason = if index < cluster.spec.replicas { "the spec changed" } else { "fewer groups are wanted" };
            context.heads.drain(&key, reason).await;
            Ok(())
        }
        Step::RestartHead => {
            bring(context, cluster, &kept()).await?;
            end(context, cluster, group.head()).await
        }
        Step::Replace => replace(context, cluster, group, &wanted()).await,
        Step::Remove => remove(context, cluster, group, index).await,
    }
}

async fn bring(context: &Context, cluster: &Validated, objects: &GroupObjects) -> Result<(), ReconcileError> {
    for object in objects.objects() {
        apply(context, &cluster.identity.owner.uid, object).await?;
    }
    Ok(())
}

/// The group with its sets at zero: what ran is evidence in the status.
fn without_pods(mut objects: GroupObjects) -> GroupObjects {
    for set in [Some(&mut objects.head), objects.workers.as_mut()].into_iter().flatten() {
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(0);
        }
    }
    objects
}

/// Brings the sets to what the spec asks for, and deletes the pods of another revision.
async fn replace(
    context: &Context,
    cluster: &Validated,
    group: &GroupSeen,
    wanted: &GroupObjects,
) -> Result<(), ReconcileError> {
    bring(context, cluster, wanted).await?;
    if wanted.workers.is_none()
        && let Some(set) = &group.worker_set
    {
        delete::<StatefulSet>(context, &cluster.identity.namespace, &set.name_any(), Delete::default()).await?;
    }
    let revision = revision(&cluster.spec);
    for pod in group.pods.values().filter(|pod| pod.labels().get(label::REVISION) != Some(&revision)) {
        end(context, cluster, Some(pod)).await?;
    }
    Ok(())
}

/// Deletes a pod, unless it is going already.
async fn end(context: &Context, cluster: &Validated, pod: Option<&std::sync::Arc<Pod>>) -> Result<(), ReconcileError> {
    match pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        Some(pod) => delete_seen(context, &cluster.identity.namespace, pod.as_ref(), false).await,
        None => Ok(()),
    }
}

async fn remove(context: &Context, cluster: &Validated, group: &GroupSeen, index: u32) -> Result<(), ReconcileError> {
    let namespace = &cluster.identity.namespace;
    for set in [&group.head_set, &group.worker_set].into_iter().flatten() {
        if set.metadata.deletion_timestamp.is_none() {
            delete_seen(context, namespace, set.as_ref(), false).await?;
        }
    }
    let name = &Names::new(&cluster.identity.name, index).group_name();
    let there = |kind: &str| context.trace(kind, namespace, name).is_some();
    if there("Service") {
        delete::<Service>(context, namespace, name, Delete::default()).await?;
    }
    if there("NetworkPolicy") {
        delete::<NetworkPolicy>(context, namespace, name, Delete::default()).await?;
    }
    if there("PodDisruptionBudget") {
        delete::<PodDisruptionBudget>(context, namespace, name, Delete::default()).await?;
    }
    context.heads.forget(&GroupKey::new(namespace, &cluster.identity.name, index));
    Ok(())
}
