//! The third step: every object of a cluster, made from the validated cluster alone. Pure; one file for each kind.
//!
//! Invariant: the same cluster gives the same objects, byte for byte, so that applying them again changes nothing.

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
pub use stateful_sets::{keep, revision_of};

/// What a cluster has once, beside its Secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterObjects {
    pub service: Service,
    pub cache_claim: Option<PersistentVolumeClaim>,
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// For where its kind exists.
    pub pod_monitor: DynamicObject,
}

/// What each group has.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupObjects {
    pub index: u32,
    pub service: Service,
    pub network_policy: NetworkPolicy,
    pub disruption_budget: PodDisruptionBudget,
    pub head: StatefulSet,
    /// None where the head's pod is the whole group.
    pub workers: Option<StatefulSet>,
}

/// One object in the form that all kinds share.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub resource: ApiResource,
    pub object: DynamicObject,
}

/// Objects that all groups of `cluster` share.
#[must_use]
pub fn cluster_objects(cluster: &Validated) -> ClusterObjects {
    ClusterObjects {
        service: services::clients(cluster),
        cache_claim: cache_claim::of_cluster(cluster),
        autoscaler: autoscaler::of_cluster(cluster),
        pod_monitor: pod_monitor::of_cluster(cluster),
    }
}

/// Objects of the group at `index`.
#[must_use]
pub fn group_objects(cluster: &Validated, index: u32) -> GroupObjects {
    let names = Names::new(&cluster.identity.name, index);
    GroupObjects {
        index,
        service: services::headless(cluster, &names),
        network_policy: network_policy::of_group(cluster, &names),
        disruption_budget: disruption_budget::of_group(cluster, &names),
        head: stateful_sets::head(cluster, &names),
        workers: stateful_sets::workers(cluster, &names),
    }
}

impl ClusterObjects {
    /// All of them but the PodMonitor, in the order in which they are applied.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        let mut all = vec![object(&self.service)];
        all.extend(self.cache_claim.as_ref().map(object));
        all.extend(self.autoscaler.as_ref().map(object));
        all
    }

    /// The PodMonitor.
    #[must_use]
    pub fn monitor(&self) -> Object {
        Object { resource: kinds::pod_monitor(), object: self.pod_monitor.clone() }
    }
}

impl GroupObjects {
    /// The group with the pods that it has: see [`keep`]. For a group that has what the spec asks for, and for one
    /// whose turn to change has not come. A live set of workers that the new spec has no place for is not among the
    /// objects; it goes when the group's turn comes.
    #[must_use]
    pub fn kept(mut self, head: Option<&StatefulSet>, workers: Option<&StatefulSet>) -> Self {
        let desired = revision_of(&self.head).map(str::to_owned);
        if let Some(live) = head {
            self.head = keep(self.head, live);
        }
        self.workers = match (self.workers, workers) {
            (Some(desired), Some(live)) => Some(keep(desired, live)),
            // Workers that the group's present revision does not know of.
            (Some(_), None) if revision_of(&self.head) != desired.as_deref() => None,
            (desired, _) => desired,
        };
        self
    }

    /// All of them, in the order in which they are applied: what pods need comes before the pods.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        let mut all = vec![object(&self.service), object(&self.network_policy), object(&self.disruption_budget)];
        all.push(object(&self.head));
        all.extend(self.workers.as_ref().map(object));
        all
    }
}

/// `typed` with its kind written into it, as server-side apply wants it.
///
/// # Panics
/// Where the type does not serialize to an object with metadata, which every Kubernetes type does.
#[must_use]
pub fn object<K>(typed: &K) -> Object
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let value = serde_json::to_value(typed).expect("Kubernetes types have string keys only");
    let object = serde_json::from_value(value).expect("Kubernetes types have kind and metadata");
    Object { resource: ApiResource::erase::<K>(&()), object }
}
