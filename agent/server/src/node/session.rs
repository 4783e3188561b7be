//! The node's end of the control stream: dial, Hello, the proof of the key, the assignment.

use std::sync::Arc;
use std::time::Duration;

use lockstep_proto::errors::with_causes;
use lockstep_proto::node::control_client::ControlClient;
use lockstep_proto::node::{self as pb, from_head, from_node};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::auth::{GroupKey, Side};
use crate::tls::{self, Tls};
use crate::wire::MAX_MESSAGE;

/// One try at the head's address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// From Hello to Assignment.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that may wait for the head: results of two steps, progress, heartbeats of a few seconds.
const OUTBOUND: usize = 256;

/// The way to the head.
pub type Outbound = mpsc::Sender<pb::FromNode>;

/// A stream that has its assignment.
pub struct Session {
    pub inbound: Streaming<pb::FromHead>,
    pub outbound: Outbound,
    pub assignment: pb::Assignment,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Passes by itself: try again.
    #[error("{0}")]
    Unreachable(String),
    /// Will be the same next time: this process must end.
    #[error("{0}")]
    Refused(String),
}

impl SessionError {
    /// What a status of the head means for this process.
    pub fn of(status: &Status) -> Self {
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
}

/// Dials the head and joins the group.
///
/// # Errors
/// [`SessionError`], telling what passes from what must be mended.
pub async fn attach(
    address: &str,
    hello: pb::Hello,
    key: Option<&GroupKey>,
    tls: Option<Arc<Tls>>,
) -> Result<Session, SessionError> {
    let unreachable = |error: &(dyn std::error::Error + 'static)| SessionError::Unreachable(with_causes(error));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| unreachable(&error))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    let channel = match tls {
        Some(tls) => tls::connect(&endpoint, tls).await,
        None => endpoint.connect().await,
    };
    let channel = channel.map_err(|error| unreachable(&error))?;
    let mut client = ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let (outbound, messages) = mpsc::channel(OUTBOUND);
    send(&outbound, from_node::Message::Hello(hello.clone())).await?;
    let greeting = async {
        let response =
            client.attach(ReceiverStream::new(messages)).await.map_err(|status| SessionError::of(&status))?;
        let mut inbound = response.into_inner();
        let assignment = greet(&mut inbound, &outbound, &hello, key).await?;
        Ok(Session { inbound, outbound, assignment })
    };
    let late = || SessionError::Unreachable("the head did not answer Hello in 5 s".into());
    tokio::time::timeout(GREETING_TIMEOUT, greeting).await.map_err(|_| late())?
}

async fn send(outbound: &Outbound, message: from_node::Message) -> Result<(), SessionError> {
    let closed = || SessionError::Unreachable("the stream closed".into());
    outbound.send(pb::FromNode { message: Some(message) }).await.map_err(|_| closed())
}

async fn next(inbound: &mut Streaming<pb::FromHead>) -> Result<from_head::Message, SessionError> {
    let envelope = inbound.message().await.map_err(|status| SessionError::of(&status))?;
    envelope.and_then(|envelope| envelope.message).ok_or_else(|| SessionError::Unreachable("the head hung up".into()))
}

async fn greet(
    inbound: &mut Streaming<pb::FromHead>,
    outbound: &Outbound,
    hello: &pb::Hello,
    key: Option<&GroupKey>,
) -> Result<pb::Assignment, SessionError> {
    let refused = |text: &str| Err(SessionError::Refused(text.into()));
    let mut first = next(inbound).await?;
    if let from_head::Message::Challenge(challenge) = &first {
        let Some(key) = key else {
            return refused("the head has a group key and this node has none: set LOCKSTEP_GROUP_KEY_FILE");
        };
        let (cluster, head) = (&challenge.cluster_id, &challenge.nonce);
        if !key.accepts(&challenge.proof, Side::Head, cluster, &hello.nonce, head) {
            return refused("the head did not prove the group's key: LOCKSTEP_GROUP_KEY_FILE differs");
        }
        let proof = key.prove(Side::Node, cluster, &hello.nonce, head);
        send(outbound, from_node::Message::Answer(pb::Answer { proof })).await?;
        first = next(inbound).await?;
    } else if key.is_some() {
        return refused("this node has a group key and the head has none: set the same LOCKSTEP_GROUP_KEY_FILE there");
    }
    match first {
        from_head::Message::Assignment(assignment) => Ok(assignment),
        _ => refused("the head answered Hello with something else than an assignment"),
    }
}
