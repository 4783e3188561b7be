//! Control streams of processes whose other tasks stand still.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::Stream;
use lockstep_proto::node::control_client::ControlClient;
use lockstep_proto::node::control_server::{Control, ControlServer};
use lockstep_proto::node::{Assignment, FromHead, FromNode, Hello, Model, WIRE_VERSION, from_head, from_node};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::config::{self, Build, Config, Environment, Role};
use crate::signals::Signals;
use crate::{head, node};

/// Time for which a process stands still.
const BLOCKED: Duration = Duration::from_secs(3);
/// Longest pause between two messages. A node gives up a head that is silent for three seconds, and a head is unready
/// when a node is silent for 0.8 s.
const LONGEST_PAUSE: Duration = Duration::from_millis(750);
/// Time for a process to start.
const START: Duration = Duration::from_secs(30);

fn resolve<const N: usize>(words: &[&str], variables: [(&str, &str); N]) -> Config {
    let cli = config::parse(std::iter::once("lockstep-agent").chain(words.iter().copied())).expect("a command line");
    let build = Build { nccl: false, visible_devices: 0 };
    config::resolve(&cli, &variables.into_iter().collect::<Environment>(), &build).expect("a configuration")
}

/// Runs a process on one thread, which stands still for [`BLOCKED`] when it is told to, and then ends the process.
fn run_and_block<T>(process: impl FnOnce() -> T + Send + 'static) -> oneshot::Sender<()>
where
    T: Future,
{
    let (block, told) = oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let blocked = async {
                told.await.ok();
                std::thread::sleep(BLOCKED);
            };
            tokio::select! {
                _ = process() => {}
                () = blocked => {}
            }
        });
        runtime.shutdown_background();
    });
    block
}

/// Asserts that messages come without a long pause for most of the time for which the process stands still.
async fn expect_messages(mut next: impl AsyncFnMut()) {
    let began = Instant::now();
    while began.elapsed() < BLOCKED - LONGEST_PAUSE {
        let message = tokio::time::timeout(LONGEST_PAUSE, next()).await;
        message.unwrap_or_else(|_| panic!("no message after {:?}", began.elapsed()));
    }
}

async fn connect(port: &str) -> ControlClient<Channel> {
    let began = Instant::now();
    loop {
        match ControlClient::connect(format!("http://127.0.0.1:{port}")).await {
            Ok(client) => return client,
            Err(error) => assert!(began.elapsed() < START, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_whose_tasks_stand_still_sends_pulses() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("its address");
    let port = free.port().to_string();
    let variables = [
        ("MISTRALRS_MN_GLOBAL_WORLD_SIZE", "2"),
        ("MISTRALRS_MN_HEAD_NUM_WORKERS", "1"),
        ("MISTRALRS_MN_HEAD_PORT", &port),
        ("LOCKSTEP_HEAD_NODE", "separate"),
        ("LOCKSTEP_GROUP_HOST", "127.0.0.1"),
    ];
    let Config { role, log, .. } =
        resolve(&["plain", "-m", "builtin://tiny", "--port=off", "--grpc-port=0"], variables);
    let Role::Head(config) = role else { panic!("no head") };
    let block = run_and_block(async move || head::run(*config, &log, Signals::default()).await);
    let mut client = connect(&port).await;
    let (outbound, messages) = mpsc::channel(1);
    let hello = Hello {
        wire_version: WIRE_VERSION,
        node: 1,
        local_world_size: 1,
        incarnation: 1,
        ring_addresses: vec!["127.0.0.1:9".into()],
        backends: vec!["ring".into()],
        ..Default::default()
    };
    let hello = FromNode { message: Some(from_node::Message::Hello(hello)) };
    outbound.send(hello).await.expect("an open stream");
    let mut inbound = client.attach(ReceiverStream::new(messages)).await.expect("a stream").into_inner();
    let heartbeats = async {
        loop {
            let beat = FromNode { message: Some(from_node::Message::Heartbeat(Default::default())) };
            outbound.send(beat).await.ok();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let pulses = async {
        let mut next_pulse = async || {
            while !matches!(
                inbound.message().await.expect("an open stream").and_then(|envelope| envelope.message),
                Some(from_head::Message::Pulse(_))
            ) {}
        };
        next_pulse().await;
        block.send(()).expect("a running head");
        expect_messages(next_pulse).await;
    };
    tokio::select! {
        () = pulses => {}
        () = heartbeats => {}
    }
}

/// A head that gives each node the same assignment, and passes on what the node says.
struct Head(mpsc::Sender<FromNode>);

#[tonic::async_trait]
impl Control for Head {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<FromHead, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<FromNode>>) -> Result<Response<Self::AttachStream>, Status> {
        let (mut inbound, reports) = (request.into_inner(), self.0.clone());
        let (outbound, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let model = Model {
                source: "builtin://tiny".into(),
                digest: "tiny".into(),
                dtype: "auto".into(),
                quantization: "none".into(),
                ..Default::default()
            };
            let assignment = Assignment {
                world_size: 1,
                pipeline_parallel_size: 1,
                model: Some(model),
                block_size: 16,
                kv_cache_bytes: 8 << 20,
                max_num_batched_tokens: 16,
                context_length: 64,
                max_num_seqs: 1,
                ..Default::default()
            };
            let message = Some(from_head::Message::Assignment(assignment));
            outbound.send(Ok(FromHead { message })).await.ok();
            while let Ok(Some(report)) = inbound.message().await {
                reports.send(report).await.ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_tasks_stand_still_sends_heartbeats() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let control = format!("--control={}", listener.local_addr().expect("its address"));
    let (reports, mut inbox) = mpsc::channel(16);
    let service = ControlServer::new(Head(reports));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    let words = ["node", "--ordinal=0", "--local-world-size=1", "--ring-listen=127.0.0.1:0", &control];
    let Role::Node(config) = resolve(&words, []).role else { panic!("no node") };
    let block = run_and_block(async move || node::run(*config, CancellationToken::new()).await);
    let mut next_beat = async || {
        let is_beat = |report: FromNode| matches!(report.message, Some(from_node::Message::Heartbeat(_)));
        while !is_beat(inbox.recv().await.expect("an open stream")) {}
    };
    tokio::time::timeout(START, next_beat()).await.expect("a heartbeat");
    block.send(()).expect("a running node");
    expect_messages(next_beat).await;
}
