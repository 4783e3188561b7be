//! The steps of groups: collects the observed state from which `rollout` decides, and carries out the decided steps.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;

use super::apply::{DeleteOptions, Urgency, apply, delete, delete_observed};
use super::build::{GroupObjects, ends_as_built, group_objects, revision, revision_of, workers_of};
use super::observation::{GroupSeen, Observation};
use super::validate::Validated;
use super::{Context, ReconcileError};
use crate::clock::elapsed;
use crate::heads::GroupKey;
use crate::objects::label;
use crate::plan::Names;
use crate::pods;
use crate::resource::InferenceCluster;
use crate::resource::status::GroupStatus;
use crate::rollout::{self, GroupRollout, Step, Wanted};

/// Shortest grace period that leaves the end of a pod to its kubelet, in seconds. The kubelet allows two seconds more.
const IDLE_GRACE_PERIOD: u32 = 1;

/// Step of each group, by index.
pub type Steps = BTreeMap<u32, Step>;

/// Decides the step of each group from the observed state. The last status tells when a drain began and whether a group
/// was stopped.
#[must_use]
pub fn decide_steps(cluster: &Validated, object: &InferenceCluster, seen: &Observation) -> Steps {
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
        let before = last_status(object, index);
        (index, observe_rollout(cluster, &wanted.revision, group, before))
    });
    rollout::decide(&wanted, &groups.collect())
}

/// Returns the last status of a group.
pub(super) fn last_status(object: &InferenceCluster, index: u32) -> Option<&GroupStatus> {
    object.status.as_ref()?.groups.iter().find(|group| group.index == index as i32)
}

/// Returns true if all pods of the group are ready. A worker's probe succeeds while its ranks serve in the current
/// epoch, a head's probe while the head accepts requests. The probes lag behind the head's report by seconds.
pub(super) fn pods_are_ready(cluster: &Validated, group: &GroupSeen) -> bool {
    let is_ready = |pod: &Pod| pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
    let mut ordinals = 0..=cluster.spec.workers.max(group.workers());
    ordinals.all(|ordinal| group.pods.get(&ordinal).is_some_and(|pod| is_ready(pod)))
}

/// Returns true if every rank of the group serves. The report of a connected head decides. If the head is not
/// connected, the readiness of the pods decides.
pub(super) fn serves(cluster: &Validated, group: &GroupSeen) -> bool {
    match &group.report {
        Some(report) if report.live => report.status.ready && group.head().is_some(),
        Some(report) => report.status.ready && pods_are_ready(cluster, group),
        None => pods_are_ready(cluster, group),
    }
}

/// Returns the revision of a group's StatefulSets, or an empty one if the group has none: in the middle of a change the
/// StatefulSets differ, and one that somebody deleted can be made again only if it had the `wanted` revision.
fn observe_revision(group: &GroupSeen, wanted: &str) -> String {
    let lacks_workers = || group.head_set.as_deref().is_some_and(|head| workers_of(head).is_some());
    let head = group.head_set.as_deref().and_then(revision_of);
    let workers = group.worker_set.as_deref().and_then(revision_of);
    let revision = match (head, workers) {
        (Some(head), Some(workers)) => (head == workers).then_some(head),
        (Some(head), None) => (head == wanted || !lacks_workers()).then_some(head),
        (None, Some(workers)) => (workers == wanted).then_some(workers),
        (None, None) => None,
    };
    revision.unwrap_or_default().to_owned()
}

/// Returns the observed state of a group in the form that `rollout` takes. `wanted` is the revision that the spec asks for.
fn observe_rollout(cluster: &Validated, wanted: &str, group: &GroupSeen, before: Option<&GroupStatus>) -> GroupRollout {
    let revision = observe_revision(group, wanted);
    let outdated =
        |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && pod.labels().get(label::REVISION) != Some(&revision);
    let expected = 1 + group.workers().max(if group.worker_set.is_some() { 0 } else { cluster.spec.workers });
    let scheduled = group.pods.values().filter(|pod| pods::kube_node(pod).is_some()).count();
    let live = group.live_report();
    let draining = live.filter(|report| report.status.draining);
    let serves = serves(cluster, group);
    let head_ready = group.head().is_some_and(|pod| pods::is_ready(pod));
    GroupRollout {
        gets_clients: head_ready,
        outdated_pods: group.pods.values().any(|pod| outdated(pod)),
        scheduled: scheduled >= expected as usize,
        ready: serves,
        taking_requests: live
            .map_or(head_ready || group.is_head_unheard(), |report| report.status.accepting || report.status.draining),
        requests_to_drain: draining.map(|report| u64::from(report.status.running) + u64::from(report.status.waiting)),
        drained_for: before.and_then(|before| before.draining_since.as_ref()).map(|since| elapsed(since.0)),
        budget_spent: !serves && group.pods.values().any(|pod| pods::is_budget_spent(pod, cluster.spec.restart_budget)),
        stopped_at: before.and_then(|before| before.stopped_at_generation),
        revision,
    }
}

/// Carries out `step` for the group at `index`.
///
/// # Errors
/// Fails if the API server refuses a request.
pub(super) async fn carry_out(
    context: &Context,
    cluster: &Validated,
    group: Option<&GroupSeen>,
    index: u32,
    step: Step,
) -> Result<(), ReconcileError> {
    let empty = GroupSeen::default();
    let group = group.unwrap_or(&empty);
    let wanted = || group_objects(cluster, index);
    let kept = || wanted().keep_pods(group.head_set.as_deref(), group.worker_set.as_deref());
    match step {
        Step::Wait => Ok(()),
        Step::Create => apply_group(context, cluster, group, wanted()).await,
        Step::Keep => apply_group(context, cluster, group, kept()).await,
        Step::Stop => apply_group(context, cluster, group, without_pods(kept())).await,
        Step::Drain => {
            if index < cluster.spec.replicas {
                apply_group(context, cluster, group, kept()).await?;
            }
            let key = GroupKey::new(&cluster.identity.namespace, &cluster.identity.name, index);
            let reason = if index < cluster.spec.replicas { "the spec changed" } else { "the cluster was scaled down" };
            context.heads.drain(&key, reason).await;
            Ok(())
        }
        Step::RestartHead => {
            apply_group(context, cluster, group, kept()).await?;
            delete_pod(context, cluster, group.head(), head_grace_period(group)).await
        }
        Step::Replace => replace(context, cluster, group, wanted()).await,
        Step::Remove => remove(context, cluster, group, index).await,
    }
}

/// Applies the objects of a group. Pods that replace lost ones are not to land on the machine that has just died:
/// Kubernetes may not know of it yet, and finds most room there.
async fn apply_group(
    context: &Context,
    cluster: &Validated,
    group: &GroupSeen,
    objects: GroupObjects,
) -> Result<(), ReconcileError> {
    let urgency = if serves(cluster, group) { Urgency::Spread } else { Urgency::Now };
    for object in objects.avoid_kube_nodes(&group.silent_kube_nodes()).objects() {
        apply(context, &cluster.identity.owner.uid, object, urgency).await?;
    }
    Ok(())
}

/// Scales the StatefulSets to zero. The status keeps the crashes as evidence.
fn without_pods(mut objects: GroupObjects) -> GroupObjects {
    for set in [Some(&mut objects.head), objects.workers.as_mut()].into_iter().flatten() {
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(0);
        }
    }
    objects
}

/// Brings the StatefulSets to the wanted revision, and deletes the pods of other revisions.
async fn replace(
    context: &Context,
    cluster: &Validated,
    group: &GroupSeen,
    wanted: GroupObjects,
) -> Result<(), ReconcileError> {
    let has_workers = wanted.workers.is_some();
    apply_group(context, cluster, group, wanted).await?;
    if !has_workers && let Some(set) = &group.worker_set {
        delete::<StatefulSet>(context, &cluster.identity.namespace, &set.name_any(), DeleteOptions::default()).await?;
    }
    let revision = revision(&cluster.spec);
    for (&ordinal, pod) in &group.pods {
        if pod.labels().get(label::REVISION) != Some(&revision) {
            let grace_period = if ordinal == 0 { head_grace_period(group) } else { None };
            delete_pod(context, cluster, Some(pod), grace_period).await?;
        }
    }
    Ok(())
}

/// Deletes a pod that is not being deleted already.
async fn delete_pod(
    context: &Context,
    cluster: &Validated,
    pod: Option<&std::sync::Arc<Pod>>,
    grace_period: Option<u32>,
) -> Result<(), ReconcileError> {
    match pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        Some(pod) => delete_observed(context, &cluster.identity.namespace, pod.as_ref(), grace_period).await,
        None => Ok(()),
    }
}

/// Returns the grace period with which the operator deletes the head's pod, in seconds, if other than the pod's own. A
/// head that has no request and gets no client needs none. The kubelet ends the pod's preStop hook, which pauses for
/// clients' sake, with the grace period.
fn head_grace_period(group: &GroupSeen) -> Option<u32> {
    let report = group.live_report().map(|report| &report.status);
    let is_idle = report.is_some_and(|status| !status.accepting && (status.running, status.waiting) == (0, 0));
    let gets_clients = group.head().is_none_or(|pod| pods::is_ready(pod));
    let ends_as_built = group.head_set.as_deref().is_some_and(ends_as_built);
    (is_idle && !gets_clients && ends_as_built).then_some(IDLE_GRACE_PERIOD)
}

/// Deletes all objects of a group.
async fn remove(context: &Context, cluster: &Validated, group: &GroupSeen, index: u32) -> Result<(), ReconcileError> {
    let namespace = &cluster.identity.namespace;
    for set in [&group.head_set, &group.worker_set].into_iter().flatten() {
        if set.metadata.deletion_timestamp.is_none() {
            delete_observed(context, namespace, set.as_ref(), None).await?;
        }
    }
    let name = &Names::new(&cluster.identity.name, index).group_name();
    let exists = |kind: &str| context.observed_metadata(kind, namespace, name).is_some();
    if exists("Service") {
        delete::<Service>(context, namespace, name, DeleteOptions::default()).await?;
    }
    if exists("NetworkPolicy") {
        delete::<NetworkPolicy>(context, namespace, name, DeleteOptions::default()).await?;
    }
    if exists("PodDisruptionBudget") {
        delete::<PodDisruptionBudget>(context, namespace, name, DeleteOptions::default()).await?;
    }
    context.heads.forget(&GroupKey::new(namespace, &cluster.identity.name, index));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lockstep_proto::v1::ClusterStatus;
    use serde_json::json;

    use super::*;
    use crate::heads::Report;
    use crate::reconcile::validate::{Defaults, validate};
    use crate::resource::testing;

    /// Returns a group whose head's pod is ready or not and reports `status`.
    fn group(ready: bool, status: ClusterStatus) -> GroupSeen {
        let object = testing::cluster("{ model: { source: 'builtin://tiny' } }");
        let valid = validate(&object, &Defaults { agent_image: "agent:1".into(), operator_pods: None }).unwrap();
        let ready = if ready { "True" } else { "False" };
        let pod = json!({ "status": { "conditions": [{ "type": "Ready", "status": ready }] } });
        GroupSeen {
            head_set: Some(Arc::new(group_objects(&valid, 0).head)),
            pods: [(0, Arc::new(serde_json::from_value(pod).unwrap()))].into(),
            report: Some(Report { status, live: true, loading_since: None }),
            ..GroupSeen::default()
        }
    }

    /// Returns a group with both StatefulSets, of the first revision.
    fn whole_group() -> GroupSeen {
        let object = testing::cluster("{ model: { source: 'builtin://tiny' }, workers: 1 }");
        let valid = validate(&object, &Defaults { agent_image: "agent:1".into(), operator_pods: None }).unwrap();
        let objects = group_objects(&valid, 0);
        GroupSeen {
            head_set: Some(Arc::new(objects.head)),
            worker_set: objects.workers.map(Arc::new),
            ..GroupSeen::default()
        }
    }

    #[test]
    fn a_group_that_lacks_a_set_of_an_old_revision_has_no_revision() {
        let whole = whole_group();
        let own = revision_of(whole.head_set.as_ref().unwrap()).unwrap().to_owned();
        assert_eq!(observe_revision(&whole, "new"), own);
        let no_workers = GroupSeen { worker_set: None, ..whole_group() };
        assert_eq!(observe_revision(&no_workers, "new"), "");
        assert_eq!(observe_revision(&no_workers, &own), own, "the spec tells what to make");
        let no_head = GroupSeen { head_set: None, ..whole_group() };
        assert_eq!(observe_revision(&no_head, "new"), "");
        assert_eq!(observe_revision(&no_head, &own), own);
        let alone = group(true, ClusterStatus::default());
        assert_ne!(observe_revision(&alone, "new"), "", "its pods know of no workers");
    }

    #[test]
    fn only_a_head_without_requests_and_clients_ends_at_once() {
        let drained = || ClusterStatus { draining: true, ..ClusterStatus::default() };
        assert_eq!(head_grace_period(&group(false, drained())), Some(IDLE_GRACE_PERIOD));
        assert_eq!(head_grace_period(&group(true, drained())), None, "Kubernetes still sends it clients");
        assert_eq!(head_grace_period(&group(false, ClusterStatus { running: 1, ..drained() })), None);
        assert_eq!(head_grace_period(&group(false, ClusterStatus { waiting: 1, ..drained() })), None);
        assert_eq!(head_grace_period(&group(false, ClusterStatus { accepting: true, ..drained() })), None);
        let mut old = group(false, drained());
        old.report.as_mut().unwrap().live = false;
        assert_eq!(head_grace_period(&old), None, "the report is old");
    }
}
