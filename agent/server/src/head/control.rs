//! The control port of the head. It serves the nodes' control streams, the group's status and the operator's calls.
//!
//! A node opens a stream and says Hello. If the group has a key, node and head prove to each other that they have it.
//! From then on this module only relays messages. The driver decides which node may join and what the messages mean.
//! With mutual TLS, the role in a caller's certificate decides which calls the caller may make.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use lockstep_api::{ClusterService, Command, MAX_STATUS_BYTES};
use lockstep_proto::names::role;
use lockstep_proto::node::control_server::{Control, ControlServer};
use lockstep_proto::node::{self as pb, from_head, from_node};
use lockstep_proto::v1::ClusterStatus;
use lockstep_proto::v1::cluster_server::ClusterServer;
use tokio::net::TcpListener;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::operations;
use crate::auth::{GroupKey, Side, nonce};
use crate::config::MAX_STAGES;
use crate::tls::{self, Peer, Tls};
use lockstep_group::wire::MAX_MESSAGE;

/// Time within which a node must say Hello and prove the key. After it, the head closes the stream.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which the head looks if a caller's connection still stands, and time for the answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Most messages that may wait for a node. The plans in flight (one more than there are stages) and the group's own
/// messages fit. The head ends the stream of a node that lets more messages wait.
const MAX_OUTBOUND: usize = 2 * MAX_STAGES as usize;

/// Events that the streams send to the driver.
#[derive(Debug)]
pub(super) enum NodeEvent {
    Hello { hello: Box<pb::Hello>, peer: IpAddr, local: IpAddr, stream: NodeStream },
    Message { node: usize, connection: u64, message: from_node::Message },
    Closed { node: usize, connection: u64, reason: String },
}

/// The driver's end of one stream.
#[derive(Debug, Clone)]
pub(super) struct NodeStream {
    pub connection: u64,
    outbound: mpsc::Sender<Result<pb::FromHead, Status>>,
    ended: CancellationToken,
}

impl NodeStream {
    /// Queues a message for the node.
    ///
    /// # Errors
    /// Says why the message cannot reach the node: too many messages wait already, or the stream has closed.
    pub(super) fn send(&self, message: from_head::Message) -> Result<(), &'static str> {
        self.outbound.try_send(Ok(pb::FromHead { message: Some(message) })).map_err(|error| match error {
            TrySendError::Full(_) => "it reads nothing from its control stream",
            TrySendError::Closed(_) => "its control stream has closed",
        })
    }

    /// Ends the stream. The node receives the status as the reason.
    pub(super) fn close(&self, status: Status) {
        // If the queue is full, the node reads nothing. Its stream then closes without a reason.
        self.outbound.try_send(Err(status)).ok();
        self.ended.cancel();
    }
}

/// gRPC service of the nodes' control streams.
#[derive(Clone)]
pub(super) struct ControlService(Arc<ControlState>);

struct ControlState {
    cluster_id: String,
    key: Option<GroupKey>,
    connections: AtomicU64,
    events: mpsc::Sender<NodeEvent>,
}

impl ControlService {
    pub(super) fn server(
        cluster_id: String,
        key: Option<GroupKey>,
        events: mpsc::Sender<NodeEvent>,
    ) -> ControlServer<Self> {
        let inner = ControlState { cluster_id, key, connections: AtomicU64::new(1), events };
        ControlServer::new(Self(Arc::new(inner))).max_decoding_message_size(MAX_MESSAGE)
    }
}

impl ControlState {
    /// Reads a node's Hello. Checks that head and node both have the group's key, or that both have none.
    async fn greet(
        &self,
        inbound: &mut Streaming<pb::FromNode>,
        outbound: &mpsc::Sender<Result<pb::FromHead, Status>>,
    ) -> Result<pb::Hello, Status> {
        let Some(from_node::Message::Hello(hello)) = next_message(inbound).await? else {
            return Err(Status::failed_precondition("the first message must be Hello"));
        };
        match (&self.key, hello.nonce.is_empty()) {
            (None, true) => Ok(hello),
            (None, false) => Err(Status::failed_precondition(
                "the node has a group key and the head has none: give both the same LOCKSTEP_GROUP_KEY_FILE or neither",
            )),
            (Some(_), true) => Err(Status::failed_precondition(
                "the head has a group key and the node has none: give both the same LOCKSTEP_GROUP_KEY_FILE or neither",
            )),
            (Some(key), false) => {
                self.challenge(key, &hello, inbound, outbound).await?;
                Ok(hello)
            }
        }
    }

    /// Proves the group's key to the node, and checks the node's own proof.
    async fn challenge(
        &self,
        key: &GroupKey,
        hello: &pb::Hello,
        inbound: &mut Streaming<pb::FromNode>,
        outbound: &mpsc::Sender<Result<pb::FromHead, Status>>,
    ) -> Result<(), Status> {
        let head_nonce = nonce();
        let proof = key.prove(Side::Head, &self.cluster_id, &hello.nonce, &head_nonce);
        let challenge = pb::Challenge { nonce: head_nonce.clone(), proof, cluster_id: self.cluster_id.clone() };
        let message = Some(from_head::Message::Challenge(challenge));
        outbound.send(Ok(pb::FromHead { message })).await.map_err(|_| Status::cancelled("closed"))?;
        match next_message(inbound).await? {
            Some(from_node::Message::Answer(answer))
                if key.accepts(&answer.proof, Side::Node, &self.cluster_id, &hello.nonce, &head_nonce) =>
            {
                Ok(())
            }
            _ => {
                Err(Status::unauthenticated("the node did not prove the group's key: LOCKSTEP_GROUP_KEY_FILE differs"))
            }
        }
    }

    /// Greets a node, and then relays its messages to the driver until the stream ends.
    async fn serve_stream(
        self: Arc<Self>,
        mut inbound: Streaming<pb::FromNode>,
        outbound: mpsc::Sender<Result<pb::FromHead, Status>>,
        (peer, local): (IpAddr, IpAddr),
    ) {
        let greeting = tokio::time::timeout(HELLO_TIMEOUT, self.greet(&mut inbound, &outbound)).await;
        let hello = match greeting.unwrap_or_else(|_| Err(Status::deadline_exceeded("the node sent no Hello in 5 s"))) {
            Ok(hello) => hello,
            Err(status) => {
                tracing::warn!(%peer, reason = status.message(), "refused a control stream");
                outbound.send(Err(status)).await.ok();
                return;
            }
        };
        let node = hello.node as usize;
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let ended = CancellationToken::new();
        let stream = NodeStream { connection, outbound, ended: ended.clone() };
        if self.events.send(NodeEvent::Hello { hello: Box::new(hello), peer, local, stream }).await.is_err() {
            return;
        }
        let reason = loop {
            let message = tokio::select! {
                message = next_message(&mut inbound) => message,
                () = ended.cancelled() => return,
            };
            let event = match message {
                Ok(Some(message)) => NodeEvent::Message { node, connection, message },
                Ok(None) => break "its process ended".to_owned(),
                Err(status) => {
                    break format!(
                        "its process was killed, ran out of memory or lost its connection: {}",
                        status.message()
                    );
                }
            };
            if self.events.send(event).await.is_err() {
                return;
            }
        };
        self.events.send(NodeEvent::Closed { node, connection, reason }).await.ok();
    }
}

/// Socket and services of the control port.
pub(super) struct ControlPort {
    pub listener: TcpListener,
    pub tls: Option<Arc<Tls>>,
    pub service: ControlServer<ControlService>,
    pub commands: mpsc::Sender<Command>,
    pub status: watch::Receiver<ClusterStatus>,
}

/// Serves the control port until `shutdown` is cancelled.
///
/// # Errors
/// Fails if the port can no longer be served.
pub(super) async fn serve_control(port: ControlPort, shutdown: CancellationToken) -> anyhow::Result<()> {
    // The listener was bound on another runtime, whose threads would have to tell this one of each connection.
    let listener = port.listener.into_std().and_then(TcpListener::from_std).context("move the control port")?;
    let incoming = tls::accept_connections(listener, port.tls);
    let status = ClusterServer::new(ClusterService::new(port.status, shutdown.clone()));
    let status = status.max_encoding_message_size(MAX_STATUS_BYTES);
    let may_read =
        |request: Request<()>| Peer::from_request(&request)?.require(&[role::OPERATOR, role::NODE]).map(|()| request);
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(port.service)
        .add_service(InterceptedService::new(status, may_read))
        .add_service(operations::OperationsService::server(port.commands));
    router.serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned()).await.context("serve the control port")
}

/// Returns the next message of a stream, or `None` at its end. Skips empty envelopes.
async fn next_message(inbound: &mut Streaming<pb::FromNode>) -> Result<Option<from_node::Message>, Status> {
    while let Some(envelope) = inbound.message().await? {
        if envelope.message.is_some() {
            return Ok(envelope.message);
        }
    }
    Ok(None)
}

#[tonic::async_trait]
impl Control for ControlService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<pb::FromHead, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<pb::FromNode>>) -> Result<Response<Self::AttachStream>, Status> {
        let peer = Peer::from_request(&request)?;
        if let Err(status) = peer.require(&[role::NODE]) {
            tracing::warn!(peer = %peer.remote, reason = status.message(), "refused a control stream");
            return Err(status);
        }
        let addresses = (peer.remote.ip(), peer.local.ip());
        let (outbound, stream) = mpsc::channel(MAX_OUTBOUND);
        tokio::spawn(self.0.clone().serve_stream(request.into_inner(), outbound, addresses));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
