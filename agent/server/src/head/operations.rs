//! Calls of the operator to the head on the control port: `lockstep.node.v1.Operations`.

use lockstep_api::Command;
use lockstep_proto::names::role;
use lockstep_proto::node::operations_server::{Operations, OperationsServer};
use lockstep_proto::node::{DrainRequest, DrainResponse};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use crate::tls::{Caller, Peer};

/// Longest reason that the head repeats in logs and in the status, in characters.
const MAX_REASON: usize = 200;

/// gRPC service of the operator's calls.
pub(super) struct OperationsService {
    commands: mpsc::Sender<Command>,
}

impl OperationsService {
    pub(super) fn server(commands: mpsc::Sender<Command>) -> OperationsServer<Self> {
        OperationsServer::new(Self { commands })
    }
}

/// Allows a drain to the operator. Without TLS, allows it to every caller on the head's own machine.
fn check_may_drain(peer: &Peer) -> Result<(), Status> {
    if peer.caller == Caller::Anyone && !peer.remote.ip().is_loopback() {
        return Err(Status::permission_denied(
            "the control port has no TLS, so only callers on the head's own machine may drain the head: set \
             LOCKSTEP_TLS_DIR",
        ));
    }
    peer.require(&[role::OPERATOR])
}

#[tonic::async_trait]
impl Operations for OperationsService {
    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        check_may_drain(&Peer::from_request(&request)?)?;
        let reason: String = request.into_inner().reason.chars().take(MAX_REASON).collect();
        let (answer, answered) = oneshot::channel();
        let gone = |_| Status::unavailable("the head is shutting down");
        self.commands.send(Command::Drain { reason, answer }).await.map_err(|_| gone(()))?;
        let in_flight = answered.await.map_err(|_| gone(()))?;
        Ok(Response::new(DrainResponse { running: in_flight.running, waiting: in_flight.waiting }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_operator_may_drain() {
        let peer =
            |ip: [u8; 4], caller: Caller| Peer::without_connection((ip, 1).into(), ([10, 0, 0, 1], 2).into(), caller);
        let certified = |roles: &[&'static str]| Caller::Certified(roles.to_vec());
        let (near, far) = ([127, 0, 0, 1], [10, 0, 0, 7]);
        let cases = [
            (peer(near, Caller::Anyone), None),
            (peer(far, Caller::Anyone), Some("has no TLS")),
            (peer(far, certified(&[role::OPERATOR])), None),
            (
                peer(near, certified(&[role::NODE])),
                Some("names node.lockstep: use a certificate for operator.lockstep"),
            ),
            (peer(near, certified(&[])), Some("names no role")),
        ];
        for (peer, expected) in cases {
            match (check_may_drain(&peer), expected) {
                (Ok(()), None) => (),
                (Err(status), Some(part)) => {
                    assert_eq!(status.code(), tonic::Code::PermissionDenied);
                    assert!(status.message().contains(part), "{peer:?}: {status}");
                }
                (got, expected) => panic!("{peer:?}: {got:?}, not {expected:?}"),
            }
        }
    }
}
