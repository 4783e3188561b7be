//! What a hub answers: headers, lists of files, files.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use lockstep_agent::config::{HubConfig, HubModel};
use lockstep_agent::hub::{Hub, HubError, Limits, Meter, Patience, RemoteFiles};

use crate::block_on;

/// Between the answers to the first question, the second, and so on; the last one is given again and again.
const BETWEEN: &[u8] = b"\n====\n";
/// Files that are fetched of those that are listed.
const FILES: usize = 4;

/// Answers as they are on the wire.
pub fn answer(bytes: &[u8]) {
    let host = host();
    *host.script.lock().expect("no panic while it is held") = answers(bytes);
    let cache = tempfile::tempdir().expect("a folder");
    let config = HubConfig {
        endpoint: format!("http://{}", host.address).parse().expect("an address"),
        cache: Some(cache.path().into()),
        ..HubConfig::default()
    };
    block_on(fetch(config)).ok();
}

async fn fetch(config: HubConfig) -> Result<(), HubError> {
    let patience = Patience { tries: 2, first: Duration::ZERO, last: Duration::ZERO, asked: Duration::from_millis(1) };
    let brief = Duration::from_millis(200);
    let limits = Limits { silence: brief, look: brief, retry: patience, ..Limits::default() };
    let hub = Arc::new(Hub::new(&config, limits)?);
    let model = HubModel { repository: "org/name".parse().expect("a name"), revision: Default::default() };
    let snapshot = hub.resolve(&model).await?;
    let files = &snapshot.files[..snapshot.files.len().min(FILES)];
    let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
    if let Ok(remote) = RemoteFiles::open(Arc::clone(&hub), &model, &snapshot).await {
        remote.read_ahead(&names).await.ok();
    }
    hub.download(&model.repository, &snapshot.commit, files, &Meter::new().0).await.map(drop)
}

fn answers(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut answers, mut rest) = (Vec::new(), bytes);
    while let Some(at) = rest.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
        answers.push(rest[..at].to_vec());
        rest = &rest[at + BETWEEN.len()..];
    }
    answers.push(rest.to_vec());
    answers.reverse();
    answers
}

/// Says what it was told to say, whatever it is asked.
struct Host {
    address: SocketAddr,
    /// The next answer is the last one.
    script: Arc<Mutex<Vec<Vec<u8>>>>,
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let script = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&script);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let told = Arc::clone(&told);
                std::thread::spawn(move || say(stream, &told));
            }
        });
        Host { address, script }
    })
}

fn say(mut stream: TcpStream, script: &Mutex<Vec<Vec<u8>>>) {
    let mut asked = Vec::new();
    let mut bytes = [0; 4096];
    while !asked.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut bytes) {
            Ok(read) if read > 0 => asked.extend_from_slice(&bytes[..read]),
            _ => return,
        }
    }
    let mut script = script.lock().expect("no panic while it is held");
    let answer = if script.len() > 1 { script.pop() } else { script.last().cloned() };
    drop(script);
    stream.write_all(&answer.unwrap_or_default()).ok();
}
