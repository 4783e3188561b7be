//! Opening of the control stream at the node: dial, Hello, proof of the group's key, assignment.

use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::errors::with_causes;
use lockstep_proto::names::env;
use lockstep_proto::node::control_client::ControlClient;
use lockstep_proto::node::{self as pb, from_head, from_node};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::auth::{GroupKey, Side};
use crate::tls::{self, Tls};
use lockstep_group::wire::MAX_MESSAGE;

/// Time for one dial of the head.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time from Hello to Assignment.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Time without data after which the system probes the connection, and time between two probes.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Probes without an answer after which the system closes the connection.
const KEEP_ALIVE_PROBES: u32 = 3;
/// Most messages that may wait for the head. There is room for the results of all steps in flight (one more than there
/// are pipeline stages, so 65 at most), for progress, and for the heartbeats of a few seconds.
const MAX_OUTBOUND: usize = 256;

/// Channel to the head.
pub(super) type Outbound = mpsc::Sender<pb::FromNode>;

/// An open control stream, with the assignment that the head sent on it.
pub(super) struct ControlStream {
    pub inbound: Streaming<pb::FromHead>,
    pub outbound: Outbound,
    pub assignment: pb::Assignment,
}

/// Reason why the node could not open a control stream, or why an open one ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenStreamError {
    /// The cause may pass by itself, so the node tries again.
    #[error("{0}")]
    Unreachable(String),
    /// The next try would fail as well, so this process must end.
    #[error("{0}")]
    Refused(String),
}

impl OpenStreamError {
    /// Decides by the head's status if the node may try again.
    pub(super) fn from_status(status: &Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            Code::FailedPrecondition | Code::Unauthenticated | Code::PermissionDenied | Code::Aborted => {
                Self::Refused(text)
            }
            code => Self::Unreachable(match std::error::Error::source(status) {
                Some(cause) => format!("{code:?}: {text}: {}", with_causes(cause)),
                None => format!("{code:?}: {text}"),
            }),
        }
    }

    /// Adds the likely cause of a connection that opens and then breaks, to the error of a node without certificates. A
    /// head with certificates answers such a node with a TLS alert, which is no HTTP/2.
    fn or_tls_is_missing(self) -> Self {
        match self {
            Self::Unreachable(reason) => Self::Unreachable(format!(
                "{reason}; this node has no certificates: if the head has some, set {} here too",
                env::TLS_DIR
            )),
            refused => refused,
        }
    }
}

/// Dials the head and joins the group.
///
/// # Errors
/// Returns an [`OpenStreamError`], which says if the node may try again.
pub(super) async fn open_stream(
    address: String,
    hello: pb::Hello,
    key: Option<GroupKey>,
    tls: Option<Arc<Tls>>,
) -> Result<ControlStream, OpenStreamError> {
    let unreachable = |error: &(dyn std::error::Error + 'static)| OpenStreamError::Unreachable(with_causes(error));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| unreachable(&error))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEP_ALIVE))
        .tcp_keepalive_interval(Some(KEEP_ALIVE))
        .tcp_keepalive_retries(Some(KEEP_ALIVE_PROBES));
    let in_the_clear = tls.is_none();
    let channel = match tls {
        Some(tls) => tls::connect(&endpoint, tls).await,
        None => endpoint.connect().await,
    };
    let channel = channel.map_err(|error| unreachable(&error))?;
    let mut client = ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let (outbound, messages) = mpsc::channel(MAX_OUTBOUND);
    send(&outbound, from_node::Message::Hello(hello.clone())).await?;
    let greeting = async {
        let response = client.attach(ReceiverStream::new(messages)).await.map_err(|status| {
            let error = OpenStreamError::from_status(&status);
            if in_the_clear { error.or_tls_is_missing() } else { error }
        })?;
        let mut inbound = response.into_inner();
        let assignment = await_assignment(&mut inbound, &outbound, &hello, key.as_ref()).await?;
        Ok(ControlStream { inbound, outbound, assignment })
    };
    let timed_out = || OpenStreamError::Unreachable("the head did not answer Hello in 5 s".into());
    tokio::time::timeout(GREETING_TIMEOUT, greeting).await.map_err(|_| timed_out())?
}

async fn send(outbound: &Outbound, message: from_node::Message) -> Result<(), OpenStreamError> {
    let closed = || OpenStreamError::Unreachable("the stream closed".into());
    outbound.send(pb::FromNode { message: Some(message) }).await.map_err(|_| closed())
}

/// Returns the next message of the head.
async fn next_message(inbound: &mut Streaming<pb::FromHead>) -> Result<from_head::Message, OpenStreamError> {
    let envelope = inbound.message().await.map_err(|status| OpenStreamError::from_status(&status))?;
    envelope
        .and_then(|envelope| envelope.message)
        .ok_or_else(|| OpenStreamError::Unreachable("the head hung up".into()))
}

/// Proves the group's key to the head if the head asks for it, and returns the assignment.
async fn await_assignment(
    inbound: &mut Streaming<pb::FromHead>,
    outbound: &Outbound,
    hello: &pb::Hello,
    key: Option<&GroupKey>,
) -> Result<pb::Assignment, OpenStreamError> {
    let refused = |text: &str| Err(OpenStreamError::Refused(text.into()));
    let mut first = next_message(inbound).await?;
    if let from_head::Message::Challenge(challenge) = &first {
        let Some(key) = key else {
            return refused("the head has a group key and this node has none: set LOCKSTEP_GROUP_KEY_FILE");
        };
        let (cluster_id, head_nonce) = (&challenge.cluster_id, &challenge.nonce);
        // A proof for another group would let whoever relays it join that group.
        if !hello.cluster_id.is_empty() && *cluster_id != hello.cluster_id {
            let own = &hello.cluster_id;
            return refused(&format!(
                "the head belongs to cluster `{cluster_id}`, this node to `{own}`: check LOCKSTEP_CLUSTER_ID and the head's \
                 address"
            ));
        }
        if !key.accepts(&challenge.proof, Side::Head, cluster_id, &hello.nonce, head_nonce) {
            return refused("the head did not prove the group's key: LOCKSTEP_GROUP_KEY_FILE differs");
        }
        let proof = key.prove(Side::Node, cluster_id, &hello.nonce, head_nonce);
        send(outbound, from_node::Message::Answer(pb::Answer { proof })).await?;
        first = next_message(inbound).await?;
    } else if key.is_some() {
        return refused("this node has a group key and the head has none: set the same LOCKSTEP_GROUP_KEY_FILE there");
    }
    match first {
        from_head::Message::Assignment(assignment) => Ok(assignment),
        _ => refused("the head did not answer Hello with an assignment"),
    }
}
