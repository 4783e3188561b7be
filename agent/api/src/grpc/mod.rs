//! The gRPC endpoint: `lockstep.v1.Inference`, `lockstep.v1.Cluster`, `vllm.grpc.engine.VllmEngine`,
//! `grpc.health.v1.Health`, and reflection (v1 and v1alpha) over all of them.
//!
//! If a client cancels a call, the server drops the answer, and the drop cancels the request at the head. All watches
//! end at a shutdown, so that they do not delay it.

mod bodies;
mod chat;
pub(crate) mod cluster;
mod health;
mod inference;
mod status;
mod vllm;
mod weigh;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use lockstep_proto::DESCRIPTORS;
use lockstep_proto::v1::cluster_server::ClusterServer;
use lockstep_proto::v1::inference_server::InferenceServer;
use lockstep_proto::vllm::grpc::engine::vllm_engine_server::VllmEngineServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;

use self::bodies::{CallBodies, MAX_QUESTION_BYTES, read_bodies};
use crate::access::log_requests;
use crate::guard::{ClientAccess, MAX_BODY_BYTES};
use crate::serve::{Protocol, Serving, serve_listener};
use crate::session::Api;

/// Longest response, in bytes: a detokenized context.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Beginning of the paths that need no key.
const HEALTH_PATH: &str = "/grpc.health.v1.Health/";

/// Error for compiled-in descriptors that do not parse: a defect of the build.
#[derive(Debug, thiserror::Error)]
#[error("read the descriptors for reflection")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// Serves until `shutdown`, then until every connection has ended.
///
/// # Errors
/// Fails only if the build is defective.
pub async fn serve(listener: TcpListener, api: Api, shutdown: CancellationToken) -> Result<(), ReflectionError> {
    let (draining, access) = (api.draining(&shutdown), api.access().clone());
    let bodies = CallBodies::new(api.bodies().clone()).map_err(tonic_reflection::server::Error::from)?;
    let routes = routes(api, &shutdown)?;
    let router = routes.into_axum_router().layer(from_fn_with_state(bodies, read_bodies));
    let router = router.layer(from_fn_with_state(access.clone(), check_key));
    let router = router.layer(from_fn(log_requests));
    let tls = access.tls;
    serve_listener(listener, Serving { router, protocol: Protocol::Grpc, tls, draining, shutdown }).await;
    Ok(())
}

/// Refuses a call without one of the server's keys in the metadata `authorization`. Health checks need none.
async fn check_key(State(access): State<ClientAccess>, request: Request, next: Next) -> Response {
    let is_open = request.uri().path().starts_with(HEALTH_PATH);
    match access.check_key(request.headers()).await {
        Err(reason) if !is_open => Status::unauthenticated(reason).into_http(),
        _ => next.run(request).await,
    }
}

fn routes(api: Api, shutdown: &CancellationToken) -> Result<Routes, ReflectionError> {
    let reflection = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1()?.max_decoding_message_size(MAX_QUESTION_BYTES);
    let v1alpha = reflection().build_v1alpha()?.max_decoding_message_size(MAX_QUESTION_BYTES);
    let cluster = ClusterServer::new(cluster::ClusterService::new(api.status(), shutdown.clone()));
    let health = HealthServer::new(health::HealthService::new(api.status(), shutdown.clone()));
    let engine = VllmEngineServer::new(vllm::EngineService::new(api.clone()));
    let inference = InferenceServer::new(inference::InferenceService::new(api));
    Ok(Routes::new(inference.max_decoding_message_size(MAX_BODY_BYTES).max_encoding_message_size(MAX_RESPONSE_BYTES))
        .add_service(engine.max_decoding_message_size(MAX_BODY_BYTES).max_encoding_message_size(MAX_RESPONSE_BYTES))
        .add_service(cluster.max_encoding_message_size(cluster::MAX_STATUS_BYTES))
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha)
        .prepare())
}
