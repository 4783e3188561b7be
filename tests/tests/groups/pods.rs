//! Groups as Kubernetes runs them: the head and its ranks are processes of their own, and control streams use mutual
//! TLS. Certificates change while the group runs, nodes are stopped, and probes state the truth.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lockstep_proto::names::role;
use lockstep_proto::node::DrainRequest;
use lockstep_proto::node::operations_client::OperationsClient;
use lockstep_proto::v1::Phase;
use lockstep_tests::certificates::Authority;
use lockstep_tests::client::{Answers, Client, greedy};
use lockstep_tests::group::{Group, Spec, Way};
use lockstep_tests::process::{LONGEST_WAIT, Process, signal_processes};
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

const MODEL: &str = "builtin://tiny";
const PROMPT: [u32; 4] = [300, 301, 302, 900];

/// Group as in pods, with the files that its processes read.
struct Pods {
    group: Group,
    authority: Authority,
    head: TempDir,
    node: TempDir,
    _key: tempfile::NamedTempFile,
}

fn pods(world_size: usize) -> Pods {
    let mut pods = prepare_pods(world_size);
    pods.group.start_all();
    pods
}

/// Prepares a group, and starts no process.
fn prepare_pods(world_size: usize) -> Pods {
    let authority = Authority::new();
    let (head, node) = (authority.folder(role::HEAD), authority.folder(role::NODE));
    let key = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(key.path(), "a key of the group, secret").expect("write");
    let spec = Spec::new(Way::MultiNode, world_size, MODEL)
        .with("LOCKSTEP_DTYPE", "f32")
        .with("LOCKSTEP_CLUSTER_ID", "pods-0")
        .with("LOCKSTEP_GROUP_KEY_FILE", key.path().display())
        .separate(head.path(), node.path());
    Pods { group: Group::prepare(spec), authority, head, node, _key: key }
}

impl Pods {
    /// Connects to the control port with a certificate for `role`.
    async fn control(&self, role: &str) -> Result<Channel, tonic::transport::Error> {
        let (certificate, key) = self.authority.issue(role);
        let tls = ClientTlsConfig::new()
            .domain_name(role::HEAD)
            .ca_certificate(Certificate::from_pem(self.authority.pem()))
            .identity(Identity::from_pem(certificate, key));
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{}", self.group.control_port()))?;
        endpoint.tls_config(tls)?.connect().await
    }

    /// Returns the client of the operator's calls.
    async fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.control(role::OPERATOR).await.expect("a connection"))
    }
}

/// Returns the status and the body of a probe.
fn probe(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(LONGEST_WAIT)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

async fn await_probe(port: u16, path: &str, expected: u16) -> String {
    let began = Instant::now();
    loop {
        let answer = probe(port, path);
        if let Some((_, body)) = answer.as_ref().filter(|(status, _)| *status == expected) {
            return body.clone();
        }
        assert!(began.elapsed() < LONGEST_WAIT, "{path} is not {expected}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_answer_as_one_machine_does() {
    let mut plain = Group::start(Spec::new(Way::MultiNode, 3, MODEL).with("LOCKSTEP_DTYPE", "f32"));
    plain.ready().await;
    let expected = plain.client().await.generate(greedy(&PROMPT, 60)).await.expect("an answer");
    drop(plain);
    let mut pods = pods(3);
    let status = pods.group.ready().await;
    let answer = pods.group.client().await.generate(greedy(&PROMPT, 60)).await.expect("an answer");
    assert_eq!(answer, expected);
    let info = status.model_info.expect("facts of the model");
    assert!(info.parameters > 0 && info.context_length > 0 && !info.architecture.is_empty(), "{info:?}");
    assert!(status.ranks.iter().all(|rank| !rank.host.is_empty() && rank.address.starts_with("127.0.0.1:")));
    let own = pods.group.own_ranks.as_ref().expect("the head's ranks").id();
    assert_eq!(status.ranks[0].pid, own, "the head started none of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_makes_only_its_own_calls() {
    let mut pods = pods(2);
    pods.group.ready().await;
    let operator = pods.control(role::OPERATOR).await.expect("a connection");
    let mut status = Client::over(operator.clone());
    assert!(status.status().await.expect("the operator reads the status").ready);
    let node = pods.control(role::NODE).await.expect("a connection");
    Client::over(node.clone()).status().await.expect("a node reads the status");
    let refused = OperationsClient::new(node).drain(DrainRequest::default()).await.expect_err("a node drains nothing");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let head = pods.control(role::HEAD).await.expect("a connection");
    let refused = Client::over(head).status().await.expect_err("a head reads no status");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let mut attach = lockstep_proto::node::control_client::ControlClient::new(operator.clone());
    let refused = attach.attach(futures::stream::empty()).await.expect_err("an operator is no node");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("node.lockstep"), "{refused}");
}

fn drain_request() -> DrainRequest {
    DrainRequest { reason: "the test asks for it".into() }
}

/// Returns a group that began to drain while it answered, and the answer. If the answer was complete before the head
/// learnt of the drain, because this process was slow, another group is tried.
async fn draining() -> (Pods, Answers) {
    for _ in 0..5 {
        let mut pods = pods(2);
        pods.group.ready().await;
        let mut operations = pods.operations().await;
        let answers = Answers::begin(&pods.group.client().await, [greedy(&PROMPT, 200)]);
        answers.await_tokens(1).await;
        let left = operations.drain(drain_request()).await.expect("drained").into_inner();
        if (left.running, left.waiting) == (1, 0) {
            return (pods, answers);
        }
        assert_eq!((left.running, left.waiting), (0, 0));
        answers.await_tokens(200).await;
    }
    panic!("a head that answers says that nothing runs");
}

/// During a drain the head finishes running requests. It still accepts requests of clients who cannot know of the drain
/// yet, then refuses them, and its process stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_finishes_running_requests_and_refuses_later_ones() {
    let (mut pods, answers) = draining().await;
    let mut client = pods.group.client().await;
    client.generate(greedy(&PROMPT, 1)).await.expect("a late request is answered");
    let status = client.status().await.expect("a status");
    assert!(status.draining && !status.accepting, "{:?}", status.pending);
    assert!(status.pending.iter().any(|line| line.contains("the test asks for it")), "{:?}", status.pending);
    assert_eq!(probe(pods.group.http_port(), "/accepting").expect("an answer").0, 503);
    assert_eq!(answers.all().await.expect("no error")[0].tokens.len(), 200);
    let again = pods.group.await_status("an empty head", |status| status.running == 0).await;
    assert!(again.draining && again.requests >= 1 && again.tokens_generated >= 200, "{again:?}");
    let left = pods.operations().await.drain(drain_request()).await.expect("drained already").into_inner();
    assert_eq!((left.running, left.waiting), (0, 0));
    let began = Instant::now();
    let refused = loop {
        match client.generate(greedy(&PROMPT, 1)).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(error) => break error,
        }
        assert!(began.elapsed() < LONGEST_WAIT, "requests are taken for ever");
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(pods.group.nodes[0].as_mut().expect("a head").is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_while_the_group_serves() {
    let mut pods = pods(3);
    let before = pods.group.ready().await;
    let mut client = pods.group.client().await;
    let undisturbed = client.generate(greedy(&PROMPT, 400)).await.expect("an answer");
    let answers = Answers::begin(&client, [greedy(&PROMPT, 400)]);
    answers.await_tokens(1).await;
    let (old, new) = (&pods.authority, Authority::new());
    for trusted in [&[old, &new][..], &[&new][..]] {
        new.write(pods.head.path(), role::HEAD, trusted);
        new.write(pods.node.path(), role::NODE, trusted);
    }
    // Open streams were not cut. New streams use the new certificates.
    let status = client.status().await.expect("a status");
    assert_eq!((status.epoch, status.recoveries), (before.epoch, before.recoveries));
    pods.group.nodes[2].as_mut().expect("a worker").kill();
    pods.group.start_node(2);
    let again = |status: &lockstep_proto::v1::ClusterStatus| status.ready && status.epoch > before.epoch;
    let after = pods.group.await_status("a new epoch", again).await;
    assert_eq!(answers.all().await.expect("an answer"), [undisturbed]);
    assert_eq!(after.ranks[1].pid, before.ranks[1].pid, "the others kept their processes");
    assert!(pods.control(role::NODE).await.is_err(), "the old CA is trusted no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_worker_loses_nothing() {
    let mut pods = pods(3);
    let before = pods.group.ready().await;
    let mut client = pods.group.client().await;
    let undisturbed = client.generate(greedy(&PROMPT, 600)).await.expect("an answer");
    let answers = Answers::begin(&client, [greedy(&PROMPT, 600)]);
    answers.await_tokens(1).await;
    let worker = pods.group.nodes[1].as_mut().expect("a worker");
    worker.signal("TERM");
    let ended = worker.wait();
    assert!(ended.success(), "{ended}: {}", worker.all_output());
    let left = pods.group.await_status("the gap", |status| status.ranks[1].phase() == Phase::Lost).await;
    assert!(left.ranks[1].message.contains("told to stop"), "{:?}", left.ranks[1]);
    pods.group.start_node(1);
    assert_eq!(answers.all().await.expect("an answer"), [undisturbed]);
    let after = pods.group.ready().await;
    assert_eq!((after.recoveries, after.ranks[1].restarts), (before.recoveries, 0), "nothing was lost");
    for process in [pods.group.nodes[0].as_ref(), pods.group.nodes[2].as_ref(), pods.group.own_ranks.as_ref()] {
        let output = process.expect("a process").all_output();
        assert!(!output.contains("cannot go on"), "a step was aborted:\n{output}");
    }
}

/// All processes are stopped, workers first, as when a whole group is deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_group_answers_first() {
    let mut pods = pods(2);
    pods.group.ready().await;
    let mut client = pods.group.client().await;
    let undisturbed = client.generate(greedy(&PROMPT, 600)).await.expect("an answer");
    let answers = Answers::begin(&client, [greedy(&PROMPT, 600)]);
    answers.await_tokens(1).await;
    let [head, worker] = &pods.group.nodes[..] else { panic!("two nodes") };
    let all: Vec<u32> = [worker, &pods.group.own_ranks, head].into_iter().flatten().map(Process::id).collect();
    signal_processes(&all, "TERM");
    assert_eq!(answers.all().await.expect("an answer"), [undisturbed]);
    for process in pods.group.nodes.iter_mut().flatten().chain(&mut pods.group.own_ranks) {
        let ended = process.wait();
        assert!(ended.success(), "{}: {ended}\n{}", process.name, process.all_output());
    }
}

/// The node holds a startup probe open until there is something to report.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_startup_probe_waits_for_the_weights() {
    let mut pods = prepare_pods(2);
    pods.group.start_node(1);
    let worker = pods.group.probe_port(1);
    await_probe(worker, "/live", 200).await;
    let body = await_probe(worker, "/ready", 503).await;
    assert!(body.contains("no stream to the head"), "{body}");
    let held = tokio::task::spawn_blocking(move || probe(worker, "/startup"));
    pods.group.start_all();
    assert_eq!(held.await.expect("the task").expect("an answer").0, 200);
    assert!(pods.group.ready().await.ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_tell_the_truth() {
    let mut pods = pods(2);
    pods.group.ready().await;
    let (own, worker) = (pods.group.probe_port(0), pods.group.probe_port(1));
    for port in [own, worker] {
        let body = await_probe(port, "/ready", 200).await;
        assert!(body.contains("\"serving\""), "{body}");
        assert_eq!(probe(port, "/startup").expect("an answer").0, 200);
        assert_eq!(probe(port, "/live").expect("an answer").0, 200);
        let (_, metrics) = probe(port, "/metrics").expect("an answer");
        assert!(metrics.contains("lockstep_node_ready 1"), "{metrics}");
        let contact = head_contact(port);
        assert!(contact["attached"] == true && contact["silent_ms"].as_u64() < Some(2000), "{contact}");
    }
    assert_eq!(probe(pods.group.http_port(), "/health").expect("an answer").0, 200);
    // The epoch is lost with the worker. The other node's ranks serve nothing any more, and live on.
    pods.group.nodes[1].as_mut().expect("a worker").kill();
    let lost = pods.group.await_status("the loss", |status| status.ranks[1].phase() == Phase::Lost).await;
    assert!(lost.ranks[1].message.contains("killed"), "{:?}", lost.ranks[1]);
    let body = await_probe(own, "/ready", 503).await;
    assert!(body.contains("wait for the group"), "{body}");
    assert_eq!(probe(own, "/live").expect("an answer").0, 200);
    assert_eq!(probe(own, "/startup").expect("an answer").0, 200);
    pods.group.start_node(1);
    await_probe(own, "/ready", 200).await;
    await_probe(worker, "/ready", 200).await;
    // A silent head does not count as serving.
    pods.group.nodes[0].as_ref().expect("a head").signal("STOP");
    await_probe(worker, "/ready", 503).await;
    let contact = head_contact(worker);
    assert!(contact["silent_ms"].as_u64() >= Some(2000), "{contact}");
    pods.group.nodes[0].as_ref().expect("a head").signal("CONT");
    await_probe(worker, "/ready", 200).await;
    let contact = head_contact(worker);
    assert!(contact["attached"] == true && contact["silent_ms"].as_u64() < Some(2000), "{contact}");
}

/// Returns what the node with this probe port says of its head.
fn head_contact(port: u16) -> serde_json::Value {
    let (status, body) = probe(port, "/head").expect("an answer");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_certificates_stays_out() {
    let mut pods = pods(2);
    pods.group.ready().await;
    let mut command = pods.group.command(1);
    command.env_remove("LOCKSTEP_TLS_DIR").env_remove("LOCKSTEP_PROBE_PORT");
    let mut stranger = Process::start("stranger", command);
    stranger.await_output("no stream to the head");
    pods.group.nodes[0].as_mut().expect("a head").await_output("refused a caller");
    assert!(pods.group.ready().await.ready);
}
