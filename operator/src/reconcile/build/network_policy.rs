//! Who may reach a group's pods: its own pods, the operator, and clients. What no rule names is closed. The kubelet's probes come from the node and need no rule.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lockstep_proto::names::port;

use crate::objects::labels;
use crate::plan::Names;
use crate::reconcile::validate::{OperatorPods, Validated};
use crate::resource::ClientOrigin;

/// Label that Kubernetes gives each namespace: its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Inside the group every port is open, because NCCL picks its own. The rules hold for all its pods: on the clients'
/// ports nobody but the head listens.
pub(super) fn of_group(cluster: &Validated, names: &Names) -> NetworkPolicy {
    let group = labels::select_pods(&cluster.identity.name, Some(names.group()), None);
    let rule = |from, ports: &[u16]| NetworkPolicyIngressRule {
        from,
        ports: (!ports.is_empty()).then(|| ports.iter().map(|port| tcp(*port)).collect()),
    };
    let clients = match cluster.spec.clients.from {
        ClientOrigin::Anywhere => None,
        ClientOrigin::Namespace => Some(vec![pods(LabelSelector::default())]),
    };
    let ingress = vec![
        rule(Some(vec![pods(group.clone())]), &[]),
        rule(Some(vec![operator(cluster.operator_pods.as_ref())]), &[port::CONTROL]),
        // Probes and metrics, which tell and change nothing.
        rule(Some(vec![any_namespace()]), &[port::PROBE]),
        rule(clients, &[port::GRPC, port::HTTP]),
    ];
    let own = labels::group_labels(&cluster.identity.name, names.group(), None);
    NetworkPolicy {
        metadata: cluster.identity.metadata(names.group_name(), own),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(group),
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
