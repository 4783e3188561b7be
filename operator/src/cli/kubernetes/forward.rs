//! A gRPC channel to a head's pod through the port-forward of the API server. It needs neither a port of this machine
//! nor kubectl.

use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use lockstep_proto::names::port;
use lockstep_proto::v1::inference_client::InferenceClient;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;
use tonic::transport::Endpoint;
use tower::service_fn;

use super::{Kubernetes, describe_error, selector};
use crate::cli::access::{AccessFlags, Connection, tls_to_anybody};
use crate::keep_alive::KeepAlive;
use crate::objects::{PodRole, label};

/// Connects to a head of cluster `name` that accepts requests.
pub(in crate::cli) async fn inference(
    kubernetes: &Kubernetes,
    name: &str,
    access: &AccessFlags,
) -> anyhow::Result<InferenceClient<Connection>> {
    let cluster = kubernetes.cluster(name).await?;
    // The API server vouches for the pod. A certificate names the Service, which is not dialled here.
    let tls = cluster.spec.serving.has_tls().then(tls_to_anybody).transpose()?.map(Arc::new);
    let heads = format!("{},{}={}", selector(name), label::ROLE, PodRole::Head.as_str());
    let heads = kubernetes
        .pods()
        .list(&ListParams::default().labels(&heads))
        .await
        .map_err(|error| describe_error(&error))?
        .items;
    let Some(pod) = heads.iter().find(|pod| accepts(pod)).and_then(|pod| pod.metadata.name.clone()) else {
        bail!("no head of {name} accepts requests; run `lockstep why {name}` for the reason")
    };
    let api = kubernetes.pods();
    let forwarded = pod.clone();
    let connect = service_fn(move |_| {
        let (api, pod, tls) = (api.clone(), forwarded.clone(), tls.clone());
        async move {
            let mut forwarder = api.portforward(&pod, &[port::GRPC]).await.map_err(|error| describe_error(&error))?;
            let stream = forwarder
                .take_stream(port::GRPC)
                .ok_or_else(|| anyhow!("the API server opened no stream for the port-forward"))?;
            let stream = match tls {
                Some(tls) => {
                    let name = ServerName::try_from("head.lockstep")?;
                    Either::Left(TlsConnector::from(tls).connect(name, stream).await?)
                }
                None => Either::Right(stream),
            };
            Ok::<_, anyhow::Error>(TokioIo::new(stream))
        }
    });
    // The address only names the peer in HTTP/2. All bytes go through the connector.
    let endpoint = KeepAlive::COMMAND.on_endpoint(Endpoint::from_static("http://head.lockstep"));
    let channel = endpoint.connect_with_connector(connect).await;
    let channel = channel.with_context(|| format!("forward port {} of {pod}", port::GRPC))?;
    Ok(InferenceClient::new(access.connection(channel)))
}

/// Returns true if the readiness probe of the head (`/accepting`) succeeds.
fn accepts(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && containers.into_iter().any(|container| container.name == crate::plan::HEAD && container.ready)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn only_ready_heads_accept_requests() {
        let accepts = |meta, name, ready| {
            let container = json!({"name": name, "ready": ready, "image": "", "imageID": "", "restartCount": 0});
            let pod = json!({"metadata": meta, "status": {"containerStatuses": [container]}});
            super::accepts(&serde_json::from_value(pod).unwrap())
        };
        assert!(accepts(json!({}), "head", true));
        assert!(!accepts(json!({}), "head", false));
        assert!(!accepts(json!({}), "rank", true));
        assert!(!accepts(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), "head", true));
    }
}
