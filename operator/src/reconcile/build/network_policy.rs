//! The NetworkPolicy of a group. It opens every port to the group's own pods, and certain ports to the operator, to
//! clients and to readers of metrics. It closes all other ports. The kubelet's probes come from the Kubernetes node and
//! need no rule.

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

/// Label with the name of a namespace, which Kubernetes sets on each namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Builds the policy of one group. Between the group's pods every port is open, because NCCL chooses its ports itself.
/// The policy opens the client ports of all pods, but only the head listens on them.
pub(super) fn build_network_policy(cluster: &Validated, names: &Names) -> NetworkPolicy {
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
        rule(Some(vec![operator_peer(cluster.operator_pods.as_ref())]), &[port::CONTROL]),
        // Probes and metrics are read-only, so every pod may request them.
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

/// Returns the peer from which the operator dials. If the operator's labels are not known, any pod may connect to the
/// control port, and mutual TLS refuses all but the operator.
fn operator_peer(known: Option<&OperatorPods>) -> NetworkPolicyPeer {
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
