//! The pods of a group, as the templates of its StatefulSets. What users laid over them comes last; only the labels that
//! find the pods again are set after that.
//!
//! Invariant: without overlays every pod meets the `restricted` Pod Security standard.

use k8s_openapi::api::core::v1::{
    LocalObjectReference, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{containers, overlays, placement, revision, volumes};
use crate::objects::{PodRole, label, labels};
use crate::plan::{self, Names};
use crate::reconcile::validate::Validated;

/// User, group and owner of the volumes: `nonroot` of the images.
const UID: i64 = 65532;

/// Seconds that a head may take to leave after its drain: connections close, workers are told.
const HEAD_LEAVE: i64 = 30;
/// Seconds that a worker may take to leave: it waits for a step's end, which lasts half a second at most.
const WORKER_LEAVE: i64 = 30;

/// Seconds after which a pod leaves a node that is not heard of: its ranks were given up long before, and a group that
/// waits for them serves nobody.
const LOST_NODE: i64 = 10;

/// Template of the pods of one role in a group.
pub(super) fn template(cluster: &Validated, names: &Names, role: PodRole) -> PodTemplateSpec {
    let mut template = PodTemplateSpec { metadata: None, spec: Some(spec(cluster, names, role)) };
    overlays::lay(&mut template, &cluster.template, role);
    overlays::lay(&mut template, if role == PodRole::Head { &cluster.head } else { &cluster.worker }, role);
    containers::complete(&mut template);
    label_as(&mut template, cluster, names, role);
    template
}

fn spec(cluster: &Validated, names: &Names, role: PodRole) -> PodSpec {
    let part = match role {
        PodRole::Head => plan::Role::Head,
        PodRole::Worker => plan::Role::Worker(0),
    };
    let plans = plan::pod_containers(&cluster.spec, names, &cluster.identity.namespace, part);
    let secrets = cluster.spec.image_pull_secrets.iter();
    let secrets: Vec<_> = secrets.map(|secret| LocalObjectReference { name: secret.name.clone() }).collect();
    PodSpec {
        volumes: Some(volumes::volumes(cluster, &plans)),
        containers: plans.iter().map(|plan| containers::container(cluster, plan, role)).collect(),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(UID),
            run_as_group: Some(UID),
            fs_group: Some(UID),
            // A claim full of weights is not walked through at every start.
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..Default::default() }),
            ..Default::default()
        }),
        termination_grace_period_seconds: Some(match role {
            PodRole::Head => containers::drain_seconds(cluster) + HEAD_LEAVE,
            PodRole::Worker => WORKER_LEAVE,
        }),
        tolerations: Some(["not-ready", "unreachable"].map(lost_node).into()),
        topology_spread_constraints: placement::spread(cluster, names.group()),
        affinity: placement::affinity(cluster, names.group()),
        ..Default::default()
    }
}

fn lost_node(state: &str) -> Toleration {
    Toleration {
        key: Some(format!("node.kubernetes.io/{state}")),
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        toleration_seconds: Some(LOST_NODE),
        ..Default::default()
    }
}

/// The labels that selectors rest on: nothing laid over a pod may change them.
fn label_as(template: &mut PodTemplateSpec, cluster: &Validated, names: &Names, role: PodRole) {
    let metadata = template.metadata.get_or_insert_with(ObjectMeta::default);
    let all = metadata.labels.get_or_insert_default();
    all.extend(cluster.queue_labels.clone());
    all.extend(labels::group_labels(&cluster.identity.name, names.group(), Some(role)));
    all.insert(label::REVISION.into(), revision(&cluster.spec));
}
