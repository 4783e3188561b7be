//! Placement of the pods of one group relative to each other. Pods of other groups do not matter.

use k8s_openapi::api::core::v1::{
    Affinity, PodAffinity, PodAffinityTerm, TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use crate::objects::labels;
use crate::reconcile::validate::Validated;
use crate::resource::PlacementPolicy;

/// Returns the constraints that keep the pods of `group` apart, if the placement policy spreads pods.
pub(super) fn spread_constraints(cluster: &Validated, group: u32) -> Option<Vec<TopologySpreadConstraint>> {
    let strictly = match cluster.spec.placement.policy {
        PlacementPolicy::Spread => false,
        PlacementPolicy::SpreadStrictly => true,
        PlacementPolicy::Pack | PlacementPolicy::Any => return None,
    };
    let pods = i32::try_from(1 + cluster.spec.workers).unwrap_or(i32::MAX);
    Some(vec![TopologySpreadConstraint {
        max_skew: 1,
        topology_key: cluster.spec.placement.topology_key.clone(),
        when_unsatisfiable: if strictly { "DoNotSchedule" } else { "ScheduleAnyway" }.into(),
        label_selector: Some(labels::select_pods(&cluster.identity.name, Some(group), None)),
        // With fewer topology domains than pods, Kubernetes would put a second pod into each domain. `min_domains`
        // makes that pod wait for another domain.
        min_domains: strictly.then_some(pods),
        ..Default::default()
    }])
}

/// Returns the affinity that brings the pods of `group` together, if the placement policy packs pods.
pub(super) fn pack_affinity(cluster: &Validated, group: u32) -> Option<Affinity> {
    if cluster.spec.placement.policy != PlacementPolicy::Pack {
        return None;
    }
    let together = WeightedPodAffinityTerm {
        weight: 100,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(labels::select_pods(&cluster.identity.name, Some(group), None)),
            topology_key: cluster.spec.placement.topology_key.clone(),
            ..Default::default()
        },
    };
    Some(Affinity {
        pod_affinity: Some(PodAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![together]),
            ..Default::default()
        }),
        ..Default::default()
    })
}
