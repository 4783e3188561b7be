//! Services: one without an address for each group, through which its workers find its head, and the clients' one.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lockstep_proto::names::port;

use super::containers::port_name;
use crate::objects::{PodRole, labels};
use crate::plan::{ClusterNames, Names};
use crate::reconcile::validate::Validated;

/// The group's names, of which its head's is the only one that is asked for: workers tell the head where they are. It
/// has its name before it is ready, because they become so together. Workers are not selected: each of them would have
/// the group's endpoints written anew.
pub(super) fn headless(cluster: &Validated, names: &Names) -> Service {
    Service {
        metadata: cluster
            .identity
            .metadata(names.group_name(), labels::group_labels(&cluster.identity.name, names.group(), None)),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: labels::select_pods(&cluster.identity.name, Some(names.group()), Some(PodRole::Head))
                .match_labels,
            ports: Some(vec![numbered(port_name::CONTROL, port::CONTROL), numbered(port_name::RING, port::RING)]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The one address that clients know: heads that are ready, which for a head means that it accepts requests.
pub(super) fn clients(cluster: &Validated) -> Service {
    let names = ClusterNames::new(&cluster.identity.name);
    let asked = &cluster.spec.service;
    let mut metadata = cluster.identity.metadata(names.service(), labels::cluster_labels(&cluster.identity.name));
    metadata.annotations = (!asked.annotations.is_empty()).then(|| asked.annotations.clone());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(asked.kind.as_str().into()),
            selector: labels::select_pods(&cluster.identity.name, None, Some(PodRole::Head)).match_labels,
            ports: Some(vec![
                service_port(port_name::GRPC, port::GRPC, Some("kubernetes.io/h2c")),
                service_port(port_name::HTTP, port::HTTP, Some("http")),
            ]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// By number: pods that do not have a port of that name would get an EndpointSlice of their own.
fn numbered(name: &str, number: u16) -> ServicePort {
    ServicePort { target_port: Some(IntOrString::Int(number.into())), ..service_port(name, number, None) }
}

fn service_port(name: &str, number: u16, protocol: Option<&str>) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: number.into(),
        target_port: Some(IntOrString::String(name.into())),
        protocol: Some("TCP".into()),
        app_protocol: protocol.map(Into::into),
        ..Default::default()
    }
}
