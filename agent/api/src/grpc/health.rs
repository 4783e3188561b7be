//! `grpc.health.v1.Health`. It reads the group's status at each call, so that it cannot lag behind the status.
//!
//! The empty name and `lockstep.v1.Inference` show the status's field `ready`. The names `accepting` and
//! `vllm.grpc.engine.VllmEngine` show the field `accepting`. A readiness probe of that name keeps a group behind its
//! Kubernetes Service, and behind its router, while the group forms again.

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use lockstep_proto::v1::ClusterStatus;
use lockstep_proto::v1::inference_server::SERVICE_NAME;
use lockstep_proto::vllm::grpc::engine::vllm_engine_server::SERVICE_NAME as ENGINE_NAME;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

pub(crate) struct HealthService {
    status: watch::Receiver<ClusterStatus>,
    shutdown: CancellationToken,
}

impl HealthService {
    pub(crate) fn new(status: watch::Receiver<ClusterStatus>, shutdown: CancellationToken) -> Self {
        Self { status, shutdown }
    }
}

/// Returns the health of the service with that name, or `ServiceUnknown` for an unknown name.
fn service_health(status: &ClusterStatus, service: &str) -> ServingStatus {
    let up = match service {
        "" | SERVICE_NAME => status.ready,
        "accepting" | ENGINE_NAME => status.accepting,
        _ => return ServingStatus::ServiceUnknown,
    };
    if up { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match service_health(&self.status.borrow(), &service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found(format!(
                "no service {service:?} here: ask for {SERVICE_NAME:?}, \"accepting\" or the empty name"
            ))),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let start = (self.status.clone(), None);
        let states = stream::unfold(start, move |(mut receiver, last_sent)| {
            let service = service.clone();
            async move {
                let changed = |status: &ClusterStatus| Some(service_health(status, &service)) != last_sent;
                let now = service_health(&*receiver.wait_for(changed).await.ok()?, &service);
                Some((Ok(HealthCheckResponse { status: now.into() }), (receiver, Some(now))))
            }
        });
        Ok(Response::new(states.take_until(self.shutdown.clone().cancelled_owned()).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_and_acceptance_have_names() {
        let status = |ready, accepting| ClusterStatus { ready, accepting, ..Default::default() };
        let cases = [
            (status(true, true), "", ServingStatus::Serving),
            (status(false, true), "", ServingStatus::NotServing),
            (status(false, true), "lockstep.v1.Inference", ServingStatus::NotServing),
            (status(false, true), "accepting", ServingStatus::Serving),
            (status(false, true), "vllm.grpc.engine.VllmEngine", ServingStatus::Serving),
            (status(true, false), "accepting", ServingStatus::NotServing),
            (status(true, true), "other", ServingStatus::ServiceUnknown),
        ];
        for (status, service, expected) in cases {
            assert_eq!(service_health(&status, service), expected, "{service}");
        }
    }
}
