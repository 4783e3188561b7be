//! Answers of a hub: headers, lists of files, files.

use lockstep_engine::source::ModelChoice;
use lockstep_hub::{Hub, HubConfig, HubError, HubModel, Limits, Meter, RemoteFiles, RetryPolicy, TokenSource};
use lockstep_proto::backoff::Backoff;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::block_on;
use crate::parts::{expand_part, split_parts};
use crate::secrets::write_temp_file;

/// Most of the listed files that a target fetches.
const MOST_FILES: usize = 4;
/// Files of the good hub, and the path in the cache where each one grows.
const FILES: [(&str, &[u8]); 2] =
    [("config.json", b"{\"architectures\": []}\n"), ("model.safetensors", b"weightsweightsweights")];
const PARTS: [&str; 2] = [
    "blobs/b891352547f4af35fd140180a1db37287c44ce07.parts",
    "blobs/aa045aa0ee93b509e6759fea0716c2e8c0f8de736e763d01ca04bb90fc8c6e23.parts",
];
/// Bytes of one piece of a file of the good hub.
const PIECE: u64 = 8;
/// Address at which no process listens.
const NOWHERE: &str = "http://127.0.0.1:1";
/// Longest error.
const LONGEST: usize = 1024;
/// Time after which the client gives up a silent host, for hosts that may be silent.
const BRIEF: Duration = Duration::from_millis(200);

/// Plays answers as they are on the wire: the first one to the first request, the second one to the second, and so on.
/// The host repeats the last answer.
pub fn answer(bytes: &[u8]) {
    let host = start_host();
    let answers = split_parts(bytes).into_iter().rev().map(<[u8]>::to_vec).collect();
    *host.script.lock().expect("no panic while it is held") = answers;
    let cache = tempfile::tempdir().expect("a folder");
    block_on(fetch_files(config(&format!("http://{}", host.address), cache.path()), short_limits())).ok();
}

/// Puts leftovers of an earlier process or another program into the cache of a good hub: the file of a branch, and
/// growing files of `config.json` and of the weights. Every file must then arrive whole.
pub fn cache(bytes: &[u8]) {
    static HUB: OnceLock<lockstep_tests::hub::Hub> = OnceLock::new();
    let hub = HUB.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, content) in FILES {
            std::fs::write(folder.path().join(name), content).expect("write");
        }
        block_on(lockstep_tests::hub::Hub::start("org/name", folder.path()))
    });
    let cache = tempfile::tempdir().expect("a folder");
    let model_cache = cache.path().join("models--org--name");
    for (name, part) in ["refs/main", PARTS[0], PARTS[1]].into_iter().zip(split_parts(bytes)) {
        let path = model_cache.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, expand_part(part)).expect("write");
    }
    let online = config(&hub.endpoint(), cache.path());
    let offline = HubConfig { offline: true, ..online.clone() };
    block_on(async {
        let hub = Hub::new(&offline, limits(PIECE)).expect("an offline hub");
        hub.resolve(&model()).await.expect_err("no file is there");
        let folder = fetch_files(online, limits(PIECE)).await.expect("a good hub's files");
        for (name, content) in FILES {
            assert_eq!(std::fs::read(folder.join(name)).expect("the file"), content);
        }
    });
    hub.asked();
}

/// Reads the file of `HF_TOKEN_PATH`. A client with a token must send it.
pub fn token(bytes: &[u8]) {
    let file = write_temp_file(&expand_part(bytes));
    let cache = tempfile::tempdir().expect("a folder");
    let config = HubConfig { token: TokenSource::File(file.path().into()), ..config(NOWHERE, cache.path()) };
    match Hub::new(&config, limits(PIECE)) {
        Ok(hub) => drop(block_on(hub.resolve(&model()))),
        Err(error) => assert!(error.to_string().len() < LONGEST, "{error}"),
    }
}

fn config(endpoint: &str, cache: &Path) -> HubConfig {
    let endpoint = endpoint.parse().expect("an address");
    HubConfig { endpoint, cache: Some(cache.into()), ..HubConfig::default() }
}

fn model() -> HubModel {
    "org/name".parse().expect("a name")
}

/// Returns limits with pieces of so many bytes.
fn limits(piece: u64) -> Limits {
    let pauses = Backoff::new(Duration::ZERO, Duration::ZERO);
    let retry = RetryPolicy { tries: 2, pauses, longest_requested: Duration::from_millis(1) };
    Limits { poll_interval: BRIEF, retry, piece_bytes: piece, ..Limits::default() }
}

/// Returns limits for a host that may leave an answer unfinished.
fn short_limits() -> Limits {
    Limits { idle_timeout: BRIEF, ..limits(Limits::default().piece_bytes) }
}

/// Fetches all files, and returns their folder.
async fn fetch_files(config: HubConfig, limits: Limits) -> Result<PathBuf, HubError> {
    let hub = Arc::new(Hub::new(&config, limits)?);
    let model = model();
    let snapshot = hub.resolve(&model).await?;
    let files = &snapshot.files[..snapshot.files.len().min(MOST_FILES)];
    let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
    let offers = snapshot.offers();
    assert!(offers.to_table().lines().count() <= snapshot.files.len().max(1) + 1, "a file was listed twice");
    offers.choose("org/name", &ModelChoice::Tag("Q8_0".into())).ok();
    if let Ok(remote) = RemoteFiles::open(Arc::clone(&hub), &model, &snapshot, &[]).await {
        remote.read_ahead(&names).await.ok();
    }
    hub.download(&model.repository, &snapshot.commit, files, &Meter::new().0).await
}

/// A host that answers every request from its script.
struct Host {
    address: SocketAddr,
    /// Answers in reverse order: the next one is the last entry.
    script: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Starts the host, once for all inputs.
fn start_host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let script = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::clone(&script);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answers = Arc::clone(&answers);
                std::thread::spawn(move || send_next_answer(stream, &answers));
            }
        });
        Host { address, script }
    })
}

/// Reads a request, and sends the next answer of the script.
fn send_next_answer(mut stream: TcpStream, script: &Mutex<Vec<Vec<u8>>>) {
    let mut request = Vec::new();
    let mut bytes = [0; 4096];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut bytes) {
            Ok(read) if read > 0 => request.extend_from_slice(&bytes[..read]),
            _ => return,
        }
    }
    let mut script = script.lock().expect("no panic while it is held");
    let answer = if script.len() > 1 { script.pop() } else { script.last().cloned() };
    drop(script);
    stream.write_all(&answer.unwrap_or_default()).ok();
}
