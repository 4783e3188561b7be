//! The Services: a headless Service for each group, through which workers find the head, and one Service for clients.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lockstep_proto::names::port;

use super::containers::port_name;
use crate::objects::{PodRole, label, labels};
use crate::plan::{ClusterNames, Names};
use crate::reconcile::validate::Validated;

/// Builds the headless Service of a group. It gives the head pod its DNS name before the head is ready, because head
/// and workers become ready together. The Service does not select workers: a worker reports its address to the head, so
/// no process looks up the name of a worker. If the Service selected workers, Kubernetes would rewrite the endpoints of
/// the group for each worker.
pub(super) fn headless_service(cluster: &Validated, names: &Names) -> Service {
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
            ports: Some(vec![
                port_by_number(port_name::CONTROL, port::CONTROL),
                port_by_number(port_name::RING, port::RING),
            ]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Builds the Service for clients. It selects the heads, and a head is ready while it accepts requests. `heard_only`
/// leaves out silent heads: their pods stay ready until Kubernetes notices that their machine is gone.
pub(super) fn client_service(cluster: &Validated, heard_only: bool) -> Service {
    let names = ClusterNames::new(&cluster.identity.name);
    let mut selector = labels::select_pods(&cluster.identity.name, None, Some(PodRole::Head)).match_labels;
    if heard_only {
        selector.get_or_insert_default().insert(label::HEARD.into(), true.to_string());
    }
    let service = &cluster.spec.service;
    let (grpc, http) = if cluster.spec.serving.has_tls() { ("https", "https") } else { ("kubernetes.io/h2c", "http") };
    let mut metadata = cluster.identity.metadata(names.service(), labels::cluster_labels(&cluster.identity.name));
    metadata.annotations = (!service.annotations.is_empty()).then(|| service.annotations.clone());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(service.kind.as_str().into()),
            selector,
            ports: Some(vec![
                service_port(port_name::GRPC, port::GRPC, Some(grpc)),
                service_port(port_name::HTTP, port::HTTP, Some(http)),
            ]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Returns a port with a numeric target. With a named target, pods without a port of that name would get an
/// EndpointSlice of their own.
fn port_by_number(name: &str, number: u16) -> ServicePort {
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
