//! The pod templates of a group's StatefulSets. The operator merges the overlays of the user into its own template.
//! Afterwards it fills in defaults that the result still lacks, and sets the labels by which selectors find the pods.
//!
//! Invariant: without overlays every pod meets the `restricted` Pod Security standard.

use k8s_openapi::api::core::v1::{
    LocalObjectReference, PodDNSConfig, PodDNSConfigOption, PodSecurityContext, PodSpec, PodTemplateSpec,
    SeccompProfile, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{containers, overlays, placement, revision, volumes};
use crate::objects::{PodRole, label, labels};
use crate::plan::{self, Names};
use crate::reconcile::validate::Validated;

/// User and group of the processes, and group of the volumes: the user `nonroot` of the images.
const UID: i64 = 65532;

/// Seconds for which a head may take to end after its drain. It closes connections and ends its sessions with workers.
const HEAD_EXIT_SECONDS: i64 = 30;
/// Seconds for which a worker may take to end. It waits for the end of a step, which lasts half a second at most.
const WORKER_EXIT_SECONDS: i64 = 30;

/// Seconds after which Kubernetes evicts a pod from a Kubernetes node that does not answer. The head has given up the
/// pod's ranks long before, and the group serves no requests until other pods replace them.
const LOST_NODE_SECONDS: i64 = 10;

/// Options of the pods' resolver (resolv.conf(5)). A machine that loses its power may take a DNS server along, and Kubernetes
/// sends questions there for a while. By default a resolver waits five seconds for each answer, and asks twice.
const DNS_OPTIONS: [(&str, &str); 2] = [("timeout", "1"), ("attempts", "5")];

/// Builds the template of the pods of one role in a group.
pub(super) fn pod_template(cluster: &Validated, names: &Names, role: PodRole) -> PodTemplateSpec {
    let mut template = PodTemplateSpec { metadata: None, spec: Some(pod_spec(cluster, names, role)) };
    overlays::merge_overlay(&mut template, &cluster.template, role);
    overlays::merge_overlay(&mut template, if role == PodRole::Head { &cluster.head } else { &cluster.worker }, role);
    containers::fill_in_defaults(&mut template);
    set_labels(&mut template, cluster, names, role);
    template
}

fn pod_spec(cluster: &Validated, names: &Names, role: PodRole) -> PodSpec {
    let plan_role = match role {
        PodRole::Head => plan::Role::Head,
        PodRole::Worker => plan::Role::Worker(0),
    };
    let plans = plan::pod_containers(&cluster.spec, names, plan_role);
    let secrets = cluster.spec.image_pull_secrets.iter();
    let secrets: Vec<_> = secrets.map(|secret| LocalObjectReference { name: secret.name.clone() }).collect();
    PodSpec {
        volumes: Some(volumes::pod_volumes(cluster, &plans)),
        containers: plans.iter().map(|plan| containers::build_container(cluster, plan, role)).collect(),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(UID),
            run_as_group: Some(UID),
            fs_group: Some(UID),
            // With this policy, the kubelet does not visit all files of a volume at every start of a pod.
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..Default::default() }),
            ..Default::default()
        }),
        termination_grace_period_seconds: Some(match role {
            PodRole::Head => containers::drain_seconds(cluster) + HEAD_EXIT_SECONDS,
            PodRole::Worker => WORKER_EXIT_SECONDS,
        }),
        tolerations: Some(["not-ready", "unreachable"].map(lost_node_toleration).into()),
        topology_spread_constraints: placement::spread_constraints(cluster, names.group(), role),
        affinity: Some(placement::affinity(cluster, names.group(), role)),
        dns_config: Some(PodDNSConfig { options: Some(DNS_OPTIONS.map(dns_option).into()), ..Default::default() }),
        ..Default::default()
    }
}

fn dns_option((name, value): (&str, &str)) -> PodDNSConfigOption {
    PodDNSConfigOption { name: Some(name.into()), value: Some(value.into()) }
}

fn lost_node_toleration(state: &str) -> Toleration {
    Toleration {
        key: Some(format!("node.kubernetes.io/{state}")),
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        toleration_seconds: Some(LOST_NODE_SECONDS),
        ..Default::default()
    }
}

/// Sets the labels that selectors, queues and the operator read. No overlay can change these labels.
fn set_labels(template: &mut PodTemplateSpec, cluster: &Validated, names: &Names, role: PodRole) {
    let metadata = template.metadata.get_or_insert_with(ObjectMeta::default);
    let all = metadata.labels.get_or_insert_default();
    all.extend(cluster.queue_labels.clone());
    all.extend(labels::group_labels(&cluster.identity.name, names.group(), Some(role)));
    all.insert(label::REVISION.into(), revision(&cluster.spec));
    if role == PodRole::Head {
        // A pod begins in the Service. So a new head gets clients even if no operator runs.
        all.insert(label::HEARD.into(), true.to_string());
    }
}
