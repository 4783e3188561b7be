//! Who may reach the pods. Policies add up: each group's lets in its own pods and the operator, the cluster's lets
//! clients reach the heads. What no rule names is closed. The kubelet's probes come from the node and need no rule.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lockstep_proto::names::port;

use super::labels::{self, PodRole};
use crate::plan::{ClusterNames, Names};
use crate::reconcile::validate::{OperatorPods, Validated};
use crate::resource::ClientOrigin;

/// Label that Kubernetes gives each namespace: its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Inside the group every port is open, because NCCL picks its own.
pub(super) fn of_group(cluster: &Validated, names: &Names) -> NetworkPolicy {
    let group = labels::selector(&cluster.name, Some(names.group()), None);
    let within = NetworkPolicyIngressRule { from: Some(vec![pods(group.clone())]), ports: None };
    let operator = NetworkPolicyIngressRule {
        from: Some(vec![operator(cluster.operator_pods.as_ref())]),
        ports: Some(vec![tcp(port::CONTROL)]),
    };
    let metrics = NetworkPolicyIngressRule {
        from: Some(vec![any_namespace()]),
        // Probes and metrics, which tell and change nothing.
        ports: Some(vec![tcp(port::PROBE)]),
    };
    let own = labels::of_group(&cluster.name, names.group(), None);
    policy(cluster, names.group_name(), own, group, vec![within, operator, metrics])
}

/// Clients reach the heads from where the spec lets them.
pub(super) fn of_clients(cluster: &Validated) -> NetworkPolicy {
    let from = match cluster.spec.clients.from {
        ClientOrigin::Anywhere => None,
        ClientOrigin::Namespace => Some(vec![pods(LabelSelector::default())]),
    };
    let clients = NetworkPolicyIngressRule { from, ports: Some(vec![tcp(port::GRPC), tcp(port::HTTP)]) };
    let heads = labels::selector(&cluster.name, None, Some(PodRole::Head));
    let name = ClusterNames::new(&cluster.name).cluster();
    policy(cluster, name, labels::of_cluster(&cluster.name), heads, vec![clients])
}

fn policy(
    cluster: &Validated,
    name: String,
    own: BTreeMap<String, String>,
    over: LabelSelector,
    ingress: Vec<NetworkPolicyIngressRule>,
) -> NetworkPolicy {
    NetworkPolicy {
        metadata: labels::metadata(cluster, name, own),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(over),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(ingress),
            ..Default::default()
        }),
    }
}

/// Where the operator dials from. Where its own labels are not known, any pod may knock at the control port: mutual
/// TLS lets in none but the operator.
fn operator(known: Option<&OperatorPods>) -> NetworkPolicyPeer {
    let Some(known) = known else { return any_namespace() };
    let labels = |labels: BTreeMap<String, String>| LabelSelector { match_labels: Some(labels), ..Default::default() };
    NetworkPolicyPeer {
        namespace_selector: Some(labels(BTreeMap::from([(NAMESPACE_NAME.to_owned(), known.namespace.clone())]))),
        pod_selector: Some(labels(known.labels.clone())),
        ..Default::default()
    }
}

fn pods(selector: LabelSelector) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(selector), ..Default::default() }
}

fn any_namespace() -> NetworkPolicyPeer {
    NetworkPolicyPeer { namespace_selector: Some(LabelSelector::default()), ..Default::default() }
}

fn tcp(number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(number.into())),
        protocol: Some("TCP".into()),
        ..Default::default()
    }
}
