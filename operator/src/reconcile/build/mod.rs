//! The third step: builds every object of a cluster from the validated cluster. Pure. Each kind has a file of its own.
//!
//! Invariant: the same cluster gives the same objects, byte for byte, so that a second apply changes nothing.

mod autoscaler;
mod cache_claim;
mod containers;
mod disruption_budget;
mod network_policy;
mod overlays;
mod placement;
mod pod_monitor;
mod pods;
mod revision;
mod services;
mod stateful_sets;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::core::{ApiResource, DynamicObject};
use serde::Serialize;

use super::validate::Validated;
use crate::objects::kinds;
use crate::plan::Names;

pub use revision::revision;
pub use stateful_sets::{ends_as_built, is_marked, keep_pods, revision_of, workers_of};

/// Objects that all groups of a cluster share, except the Secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterObjects {
    pub service: Service,
    pub cache_claim: Option<PersistentVolumeClaim>,
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// PodMonitor, which is applied only if the Kubernetes cluster has this kind.
    pub pod_monitor: DynamicObject,
}

/// Objects of one group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupObjects {
    pub index: u32,
    pub service: Service,
    pub network_policy: NetworkPolicy,
    pub disruption_budget: PodDisruptionBudget,
    pub head: StatefulSet,
    /// StatefulSet of the workers. `None` if the group has no workers.
    pub workers: Option<StatefulSet>,
}

/// One object in a form that all kinds share.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub resource: ApiResource,
    pub object: DynamicObject,
}

/// Builds the objects that all groups of `cluster` share. `heard_only` is true if the pods of all heads have the label
/// [`HEARD`](crate::objects::label::HEARD).
#[must_use]
pub fn cluster_objects(cluster: &Validated, heard_only: bool) -> ClusterObjects {
    ClusterObjects {
        service: services::client_service(cluster, heard_only),
        cache_claim: cache_claim::build_cache_claim(cluster),
        autoscaler: autoscaler::build_autoscaler(cluster),
        pod_monitor: pod_monitor::build_pod_monitor(cluster),
    }
}

/// Builds the objects of the group at `index`.
#[must_use]
pub fn group_objects(cluster: &Validated, index: u32) -> GroupObjects {
    let names = Names::new(&cluster.identity.name, index);
    GroupObjects {
        index,
        service: services::headless_service(cluster, &names),
        network_policy: network_policy::build_network_policy(cluster, &names),
        disruption_budget: disruption_budget::build_disruption_budget(cluster, &names),
        head: stateful_sets::head_set(cluster, &names),
        workers: stateful_sets::worker_set(cluster, &names),
    }
}

impl ClusterObjects {
    /// Returns all objects but the PodMonitor, in the order in which they are applied.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        let mut all = vec![object(&self.service)];
        all.extend(self.cache_claim.as_ref().map(object));
        all.extend(self.autoscaler.as_ref().map(object));
        all
    }

    /// Returns the PodMonitor.
    #[must_use]
    pub fn pod_monitor_object(&self) -> Object {
        Object { resource: kinds::pod_monitor(), object: self.pod_monitor.clone() }
    }
}

impl GroupObjects {
    /// Returns these objects with the pod templates of the live StatefulSets, as the function [`keep_pods`] keeps them, and
    /// with the number of pods that the head's template knows.
    /// The operator applies these objects to a group that is up to date, and to a group whose turn to change has not
    /// come. If the new spec has no workers, the live StatefulSet of workers is not among the objects. The operator
    /// deletes that StatefulSet when it changes the group.
    #[must_use]
    pub fn keep_pods(mut self, head: Option<&StatefulSet>, workers: Option<&StatefulSet>) -> Self {
        let desired_revision = revision_of(&self.head).map(str::to_owned);
        if let Some(live) = head {
            self.head = keep_pods(self.head, live, Some(1));
        }
        self.workers = match (self.workers, workers) {
            // The live StatefulSet itself may have been scaled by somebody.
            (Some(desired), Some(live)) => Some(keep_pods(desired, live, head.and_then(workers_of))),
            // The present revision of the group has no workers.
            (Some(_), None) if revision_of(&self.head) != desired_revision.as_deref() => None,
            (desired, _) => desired,
        };
        self
    }

    /// Returns these objects with pods that Kubernetes does not put on the Kubernetes nodes `names`. The annotations with
    /// the pod templates stay, so the operator allows these nodes again by applying the group without this.
    #[must_use]
    pub fn avoid_kube_nodes(mut self, names: &BTreeSet<String>) -> Self {
        for set in [Some(&mut self.head), self.workers.as_mut()].into_iter().flatten() {
            placement::avoid_kube_nodes(&mut set.spec.get_or_insert_default().template, names);
        }
        self
    }

    /// Returns all objects in the order in which they are applied. Objects that pods need come first.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        let mut all = vec![object(&self.service), object(&self.network_policy), object(&self.disruption_budget)];
        all.push(object(&self.head));
        all.extend(self.workers.as_ref().map(object));
        all
    }
}

/// Converts a typed object into the form that all kinds share.
///
/// # Panics
/// Panics if the type does not serialize to an object with metadata. Every Kubernetes type does.
#[must_use]
pub fn object<K>(typed: &K) -> Object
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let value = serde_json::to_value(typed).expect("Kubernetes types have string keys only");
    let object = serde_json::from_value(value).expect("Kubernetes types have kind and metadata");
    Object { resource: ApiResource::erase::<K>(&()), object }
}
