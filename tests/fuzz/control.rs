//! Messages of control streams: from nodes to a head, and from a head to a node.
//!
//! An input holds messages one after the other: a byte that names the stream, the length (a varint) and the message. If
//! the first byte is 128 or more, the receiver has a group key.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{Stream, StreamExt as _};
use lockstep_agent::config::{Build, Config, Environment, LogConfig, Role, parse, resolve};
use lockstep_agent::signals::Signals;
use lockstep_agent::{head, node};
use lockstep_group::wire;
use lockstep_proto::node::control_client::ControlClient;
use lockstep_proto::node::control_server::{Control, ControlServer};
use lockstep_proto::node::{FromHead, FromNode, from_head, from_node};
use lockstep_tests::process::free_port;
use prost::Message;
use tempfile::NamedTempFile;
use tokio::task::{JoinHandle, LocalSet, spawn_blocking, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::block_on;
use crate::driver::END_TIMEOUT;
use crate::files::run_on_rank;
use crate::secrets::write_temp_file;
use crate::wire::send_and_read;

/// Time that a node has to act on a message before the next one comes.
const TURN: Duration = Duration::from_millis(150);
/// Messages of one input.
const MESSAGES: usize = 32;

/// Gives a step plan to a rank that has a sequence.
pub fn plan(bytes: &[u8]) {
    if let Ok(FromHead { message: Some(from_head::Message::Plan(plan)) }) = FromHead::decode(bytes)
        && let Ok(plan) = wire::plan_from_wire(plan)
    {
        run_on_rank(plan);
    }
}

/// Decodes a node's report of a step.
pub fn step_done(bytes: &[u8]) {
    if let Ok(FromNode { message: Some(from_node::Message::StepDone(done)) }) = FromNode::decode(bytes) {
        wire::output_from_wire(done).ok();
    }
}

/// Plays the streams of two nodes to a head of their own.
pub fn from_nodes(bytes: &[u8]) {
    run_with_head(key_flag(bytes), async |channel, _| send_on_two_streams(ControlClient::new(channel), bytes).await);
}

/// Sends bytes to a head's control port, as they are on the wire.
pub fn bytes(bytes: &[u8]) {
    let request = bytes.to_vec();
    run_with_head(None, async |_, address| {
        let sent = spawn_blocking(move || send_and_read(address, &request, |_| true));
        sent.await.expect("the head hangs up");
    });
}

/// Returns the flag with a group key, if the input asks for one.
fn key_flag(bytes: &[u8]) -> Option<String> {
    static KEY: OnceLock<NamedTempFile> = OnceLock::new();
    let path = KEY.get_or_init(|| write_temp_file(b"a key of the group")).path().display();
    bytes.first().filter(|first| **first >= 128).map(|_| format!("--group-key-file={path}"))
}

/// Runs `talk` with a head of its own. The head must still run afterwards, and must end when it gets the signal to stop.
fn run_with_head(key: Option<String>, talk: impl AsyncFnOnce(Channel, SocketAddr)) {
    // The thread that polls the head owns its future.
    block_on(LocalSet::new().run_until(async {
        let port = free_port();
        let variables = [
            ("MISTRALRS_MN_GLOBAL_WORLD_SIZE", "2".to_owned()),
            ("MISTRALRS_MN_HEAD_NUM_WORKERS", "1".to_owned()),
            ("MISTRALRS_MN_HEAD_PORT", port.to_string()),
            ("LOCKSTEP_HEAD_NODE", "separate".to_owned()),
            ("LOCKSTEP_CLUSTER_ID", "fuzz".to_owned()),
        ];
        let mut words = vec!["plain", "-m", "builtin://tiny", "--port", "off", "--grpc-port", "0"];
        words.extend(key.as_deref());
        let (Role::Head(config), log) = resolve_role(&words, variables) else { panic!("no head") };
        let signals = Signals::default();
        let stop = signals.stop.clone();
        let running = spawn_local(async move { head::run(*config, &log, signals).await });
        talk(connect_when_open(port, &running).await, SocketAddr::from(([127, 0, 0, 1], port))).await;
        assert!(!running.is_finished(), "the head ended: {:?}", running.await);
        stop.cancel();
        timeout(END_TIMEOUT, running).await.expect("the head does not end").expect("the head does not panic").ok();
    }));
}

/// Sends all messages on two streams, and waits for the end of both.
async fn send_on_two_streams(mut client: ControlClient<Channel>, bytes: &[u8]) {
    let (first, first_messages) = unbounded();
    let (second, second_messages) = unbounded();
    let mut streams = Vec::new();
    for messages in [first_messages, second_messages] {
        streams.extend(client.attach(messages).await.map(Response::into_inner));
    }
    for (stream, message) in split_messages::<FromNode>(bytes) {
        let to = if stream % 2 == 0 { &first } else { &second };
        to.unbounded_send(message).ok();
        tokio::task::yield_now().await;
    }
    drop((first, second));
    for stream in streams {
        timeout(END_TIMEOUT, stream.for_each(async |_| ())).await.expect("the head leaves a stream open");
    }
}

/// Plays a head's stream to a node of its own.
pub fn from_head(bytes: &[u8]) {
    block_on(async {
        let port = free_port();
        let control = format!("--control=127.0.0.1:{port}");
        let key = key_flag(bytes);
        let mut words = vec![
            "node",
            "--ordinal=0",
            "--local-world-size=1",
            "--world-size=1",
            "--ring-listen=127.0.0.1:0",
            &control,
        ];
        words.extend(key.as_deref());
        let (Role::Node(config), _) = resolve_role(&words, [("HF_HUB_OFFLINE", "1".to_owned())]) else {
            panic!("no node")
        };
        let played = CancellationToken::new();
        let (script, ended) = (split_messages(bytes).into_iter().map(|(_, message)| message).collect(), played.clone());
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let service = ControlServer::new(Head { script, ended: ended.clone() });
        let head = tokio::spawn(Server::builder().add_service(service).serve_with_shutdown(address, async move {
            ended.cancelled().await;
        }));
        let stop = CancellationToken::new();
        let running = tokio::spawn(node::run(*config, stop.clone()));
        timeout(END_TIMEOUT, played.cancelled()).await.expect("the node does not come, or takes too long");
        stop.cancel();
        timeout(END_TIMEOUT, running).await.expect("the node does not end").expect("the node does not panic").ok();
        head.abort();
    });
}

/// A head that sends its script to the first node that attaches. Each message follows the node's answer to the message
/// before, or a pause.
struct Head {
    script: Vec<FromHead>,
    ended: CancellationToken,
}

#[tonic::async_trait]
impl Control for Head {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<FromHead, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<FromNode>>) -> Result<Response<Self::AttachStream>, Status> {
        let (messages, stream): (UnboundedSender<_>, UnboundedReceiver<_>) = unbounded();
        let (script, ended) = (self.script.clone(), self.ended.clone());
        let mut reports = request.into_inner();
        tokio::spawn(async move {
            for message in script {
                messages.unbounded_send(Ok(message)).ok();
                timeout(TURN, await_answer(&mut reports)).await.ok();
            }
            ended.cancel();
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Waits until the node has done something.
async fn await_answer(reports: &mut Streaming<FromNode>) {
    use from_node::Message::{Fault, Formed, Loaded, StepDone};
    while let Ok(Some(FromNode { message })) = reports.message().await {
        if matches!(message, Some(Loaded(_) | Formed(_) | StepDone(_) | Fault(_))) {
            return;
        }
    }
    // The node has hung up.
    std::future::pending().await
}

fn resolve_role<const N: usize>(words: &[&str], variables: [(&str, String); N]) -> (Role, LogConfig) {
    let cli = parse(std::iter::once("lockstep-agent").chain(words.iter().copied())).expect("a command line");
    let variables: Environment = variables.into_iter().collect();
    let build = Build { nccl: false, visible_devices: 0 };
    let Config { role, log, .. } = resolve(&cli, &variables, &build).expect("a configuration");
    (role, log)
}

/// Connects to a port that another task is about to open.
async fn connect_when_open<T>(port: u16, opens: &JoinHandle<T>) -> Channel {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{port}")).expect("an address");
    loop {
        assert!(!opens.is_finished(), "it ended before it listened");
        if let Ok(channel) = endpoint.connect().await {
            return channel;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Splits an input into messages, each with the byte that names its stream.
fn split_messages<M: Message + Default>(bytes: &[u8]) -> Vec<(u8, M)> {
    let (mut messages, mut rest) = (Vec::new(), bytes);
    while let Some((stream, after)) = rest.split_first() {
        rest = after;
        match M::decode_length_delimited(&mut rest) {
            Ok(message) if messages.len() < MESSAGES => messages.push((*stream, message)),
            _ => break,
        }
    }
    messages
}
