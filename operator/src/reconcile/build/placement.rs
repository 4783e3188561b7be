//! Placement of the pods of one group relative to each other and to the other groups of the cluster.
//!
//! Groups are kept apart where there is room: no Kubernetes node has pods of two groups while another is free, so that the
//! loss of one node takes one group. All of this is preference. The scheduler weighs a preference for or against pods by
//! the sum of its weights on a node, compared to the other nodes. So the wish of a group for its own pods, by its
//! placement policy, has a weight that a few pods of other groups do not outweigh. Only two heads on one node are worse
//! than two pods of one group: a group needs all its pods anyway, and two heads take the requests of two groups along.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinity, PodAffinityTerm, PodAntiAffinity,
    PodTemplateSpec, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::objects::{PodRole, annotation, label, labels};
use crate::reconcile::validate::Validated;
use crate::resource::PlacementPolicy;

/// Weight of a pod of the own group.
const OWN_GROUP: i32 = 60;
/// Weight of a pod of another group.
const OTHER_GROUP: i32 = 12;
/// Weight of the head of another group, beside [`OTHER_GROUP`], for a head.
const OTHER_HEAD: i32 = 100;
/// Label with the name of a Kubernetes node.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Returns the constraints that keep the pods of `group` apart, if the placement policy spreads pods. A head's wish to be
/// apart is in its affinity alone, where it is weighed against other heads.
pub(super) fn spread_constraints(
    cluster: &Validated,
    group: u32,
    role: PodRole,
) -> Option<Vec<TopologySpreadConstraint>> {
    let strictly = match cluster.spec.placement.policy {
        PlacementPolicy::Spread if role == PodRole::Head => return None,
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

/// Returns the affinity of the pods of `group` with `role`: they seek or avoid their own group's pods, by the placement
/// policy, and avoid the pods of other groups.
pub(super) fn affinity(cluster: &Validated, group: u32, role: PodRole) -> Affinity {
    let name = &cluster.identity.name;
    let own =
        || vec![term(OWN_GROUP, labels::select_pods(name, Some(group), None), &cluster.spec.placement.topology_key)];
    // The scheduler weighs spread constraints apart from affinity. Without an own term, the only wish that affinity would
    // express is to avoid other groups, at full weight.
    let (seeks, mut avoids) = match cluster.spec.placement.policy {
        PlacementPolicy::Pack => (Some(own()), Vec::new()),
        PlacementPolicy::Spread => (None, own()),
        PlacementPolicy::SpreadStrictly | PlacementPolicy::Any => (None, Vec::new()),
    };
    avoids.push(term(OTHER_GROUP, select_other_groups(name, group, None), HOSTNAME));
    if role == PodRole::Head {
        avoids.push(term(OTHER_HEAD, select_other_groups(name, group, Some(role)), HOSTNAME));
    }
    Affinity {
        pod_affinity: seeks.map(|terms| PodAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(terms),
            ..Default::default()
        }),
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(avoids),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn term(weight: i32, selector: LabelSelector, topology_key: &str) -> WeightedPodAffinityTerm {
    WeightedPodAffinityTerm {
        weight,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(selector),
            topology_key: topology_key.to_owned(),
            ..Default::default()
        },
    }
}

/// Selects the pods of all groups of the cluster `name` but `group`, or only those with `role`.
fn select_other_groups(name: &str, group: u32, role: Option<PodRole>) -> LabelSelector {
    let other = LabelSelectorRequirement {
        key: label::GROUP.into(),
        operator: "NotIn".into(),
        values: Some(vec![group.to_string()]),
    };
    LabelSelector { match_expressions: Some(vec![other]), ..labels::select_pods(name, None, role) }
}

/// Forbids the Kubernetes nodes `names` to the pods of `template`, whatever else their affinity asks for. An annotation
/// tells why.
pub(super) fn avoid_kube_nodes(template: &mut PodTemplateSpec, names: &BTreeSet<String>) {
    if names.is_empty() {
        return;
    }
    let list: Vec<_> = names.iter().map(String::as_str).collect();
    let annotations = template.metadata.get_or_insert_default().annotations.get_or_insert_default();
    annotations.insert(annotation::AVOIDS.into(), list.join(","));
    let spec = template.spec.get_or_insert_default();
    // The API server takes one name in each requirement on a name.
    let avoids = names.iter().map(|name| NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "NotIn".into(),
        values: Some(vec![name.clone()]),
    });
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let required = affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    // A Kubernetes node fits if it fits one of the terms, so each term needs the requirements.
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields.get_or_insert_default().extend(avoids.clone());
    }
}
