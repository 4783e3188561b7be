//! Fuzzes the programs that show a group: the head's pages, the answers that `lockstep` reads, and objects of
//! Kubernetes.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::serde::de::DeserializeOwned;
use lockstep_operator::diagnosis::{ClusterSnapshot, diagnose};
use lockstep_operator::plan::{HEAD, RANK};
use lockstep_operator::pods;
use lockstep_operator::resource::{self, InferenceCluster};
use lockstep_proto::v1::cluster_client::ClusterClient;
use lockstep_proto::v1::{ClusterStatus, GetStatusRequest};
use lockstep_tests::process::program;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::block_on;
use crate::driver::END_TIMEOUT;
use crate::requests::Servers;
use crate::wire::send_and_read;
use crate::words::build_objects;

/// Exit status of a program that panicked.
const PANICKED: i32 = 101;
/// Bytes of a crash's log that a status keeps.
const MAX_LOG: usize = 1024;
/// Present time of the diagnosis, in seconds of Unix time.
const NOW: i64 = 1_700_000_000;

/// Shows a group's status on the pages and in the metrics. Most of a status is the nodes' own report, so it may hold
/// anything.
pub fn group_status(bytes: &[u8]) {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    let Ok(status) = ClusterStatus::decode(bytes) else { return };
    let servers = SERVERS.get_or_init(Servers::start);
    servers.status.send_replace(status.clone());
    for (path, up) in [("/ready", status.ready), ("/accepting", status.accepting), ("/metrics", true)] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = send_and_read(servers.http, request.as_bytes(), |answer| !answer.is_empty());
        let expected = if up { "HTTP/1.1 200" } else { "HTTP/1.1 503" };
        assert!(answer.starts_with(expected.as_bytes()), "{path}: {}", String::from_utf8_lossy(&answer));
    }
    let reported = block_on(ClusterClient::new(servers.channel.clone()).get_status(GetStatusRequest {}));
    assert_eq!(reported.expect("the status").into_inner().encode_to_vec(), status.encode_to_vec());
}

/// Answers `lockstep` with messages of gRPC, as they are on the wire. The first line of the input names the command.
pub fn head_answers(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let host = start_host();
    *host.script.lock().expect("no panic while it is held") = bytes[(end + 1).min(bytes.len())..].to_vec();
    let words = match &bytes[..end] {
        b"generate" => vec!["generate", "hello"],
        b"json" => vec!["status", "-o", "json"],
        b"watch" => vec!["status", "--watch"],
        _ => vec!["status"],
    };
    let mut command = Command::new(program("lockstep"));
    command.args(words).arg(format!("--endpoint={}", host.address)).env_clear();
    let log = tempfile::NamedTempFile::new().expect("a file");
    let stderr = log.reopen().expect("the file");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().expect("start the command");
    let began = Instant::now();
    let code = loop {
        if let Some(status) = child.try_wait().expect("look at the command") {
            break status.code();
        }
        if began.elapsed() > END_TIMEOUT {
            child.kill().ok();
            panic!("the command does not end");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let log = std::fs::read_to_string(log.path()).unwrap_or_default();
    assert!(code.is_some_and(|code| code < PANICKED), "{code:?}: {log}");
}

/// Reads objects in JSON as the API server gives them: `cluster`, `pods`, `events`, `nodes`. Most of their texts come
/// from elsewhere: last log lines of containers, messages of kubelets and schedulers.
pub fn kubernetes(bytes: &[u8]) {
    let Ok(objects) = serde_json::from_slice::<Value>(bytes) else { return };
    let pods: Vec<Pod> = parse_objects(&objects["pods"]);
    for pod in &pods {
        for name in [HEAD, RANK] {
            let obstacle = pods::find_rank_obstacle(pod, name);
            assert!(obstacle.is_none_or(|obstacle| !obstacle.phase.is_empty()));
        }
        let crashes = pods::list_crashes(pod);
        assert!(crashes.iter().all(|crash| crash.exit_code != 0 && crash.log.len() <= MAX_LOG));
        pods::is_budget_spent(pod, 3).then(|| pods::restarts(pod, RANK));
    }
    let Some(cluster) = store_cluster(&objects["cluster"]) else { return };
    let (events, nodes) = (parse_objects(&objects["events"]), parse_objects(&objects["nodes"]));
    let now = Timestamp::from_second(NOW).expect("a time");
    let found = diagnose(&ClusterSnapshot { cluster: &cluster, pods: &pods, events: &events, nodes: &nodes, now });
    assert!(!found.message.is_empty(), "{found:?}");
    build_objects(&cluster);
}

/// Returns a cluster as the API server stores it: judged, with its defaults, and with the parts that the API server and
/// the operator wrote.
fn store_cluster(written: &Value) -> Option<InferenceCluster> {
    let manifest = json!({
        "apiVersion": "lockstep.dev/v1alpha1", "kind": "InferenceCluster", "metadata": {"name": "llama"},
        "spec": written["spec"],
    });
    let mut cluster = resource::parse(&manifest.to_string(), "fuzz").ok()?;
    cluster.metadata = serde_json::from_value(written["metadata"].clone()).ok()?;
    cluster.status = serde_json::from_value(written["status"].clone()).ok()?;
    Some(cluster)
}

/// Returns the objects that have the right form.
fn parse_objects<K: DeserializeOwned>(list: &Value) -> Vec<K> {
    list.as_array().into_iter().flatten().filter_map(|object| serde_json::from_value(object.clone()).ok()).collect()
}

/// A host that answers every request from its script.
struct Host {
    address: SocketAddr,
    script: Arc<Mutex<Vec<u8>>>,
}

/// Starts the host, once for all inputs.
fn start_host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let (address, script) = (listener.local_addr().expect("its address"), Arc::<Mutex<Vec<u8>>>::default());
            let served = Arc::clone(&script);
            let answer = move || {
                let answer = served.lock().expect("no panic while it is held").clone();
                std::future::ready(([(CONTENT_TYPE, "application/grpc")], answer))
            };
            let router = Router::new().fallback(answer);
            tokio::spawn(async move { axum::serve(listener, router).await.expect("serve") });
            Host { address, script }
        })
    })
}
