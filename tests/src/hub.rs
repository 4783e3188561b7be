//! Hub on loopback. It lists and serves the files of a folder as the real hub does, large ones by a redirect to another
//! host, and plays the tricks that a test asks for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Bytes of one write: few, so that cuts fall between writes.
const CHUNK: usize = 1000;

/// Fault that an answer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trick {
    /// The answer has this status, and a `Retry-After` if one is given.
    Status(u16, Option<u32>),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Each part of the body follows a pause, until the tricks are forgotten.
    Slow(Duration),
    /// The bytes differ from the file's.
    Damaged,
    /// The answer holds the whole file, whatever range was requested.
    NoRanges,
    /// The answer holds so many bytes more than were requested, and does not state its length.
    Longer(usize),
    /// `Content-Range` and the length belong to a file that is so much larger.
    OtherTotal(u64),
    /// The answer holds the range after the requested one.
    OtherRange,
    /// The answer states a `Content-Length` of so many bytes.
    Length(u64),
    /// The answer redirects to this address.
    Redirect(String),
}

/// Request as the hub received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// True if the storage received the request, not the hub.
    pub storage: bool,
    pub path: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
    pub if_range: Option<String>,
}

struct File {
    bytes: Bytes,
    sha256: String,
    blob_id: String,
    large: bool,
}

struct Rule {
    part: String,
    /// Receiver of the request: the storage or the hub; `None`: either.
    storage: Option<bool>,
    times: usize,
    trick: Trick,
}

#[derive(Default)]
struct Book {
    files: BTreeMap<String, Arc<File>>,
    rules: Vec<Rule>,
    asked: Vec<Asked>,
    /// Sizes that the list states instead of the right ones.
    sizes: BTreeMap<String, u64>,
    token: Option<String>,
    commit: String,
}

/// Running hub and its storage.
pub struct Hub {
    pub address: SocketAddr,
    pub storage: SocketAddr,
    repository: String,
    book: Arc<Mutex<Book>>,
    _servers: JoinSet<()>,
}

#[derive(Clone)]
struct Host {
    book: Arc<Mutex<Book>>,
    repository: String,
    /// Address of the storage; `None` in the storage itself.
    storage: Option<SocketAddr>,
}

impl Hub {
    /// Serves the files of `folder` as the model `repository`.
    pub async fn start(repository: &str, folder: &Path) -> Self {
        let book = Arc::new(Mutex::new(Book { commit: COMMIT.into(), ..Book::default() }));
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (hub, storage) = (bind().await.expect("a port"), bind().await.expect("a port"));
        let (address, storage_address) = (hub.local_addr().expect("bound"), storage.local_addr().expect("bound"));
        let host = |storage| Host { book: book.clone(), repository: repository.into(), storage };
        let mut servers = JoinSet::new();
        for (listener, host) in [(hub, host(Some(storage_address))), (storage, host(None))] {
            let router = Router::new().fallback(answer).with_state(host);
            servers.spawn(async move { axum::serve(listener, router).await.expect("serve") });
        }
        let hub = Self { address, storage: storage_address, repository: repository.into(), book, _servers: servers };
        for entry in std::fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_file() {
                hub.add(&name, std::fs::read(&path).expect("read a file"));
            }
        }
        hub
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn source(&self) -> String {
        format!("hf://{}", self.repository)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    /// Adds a file. Weights go to the large-file storage.
    pub fn add(&self, name: &str, bytes: Vec<u8>) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let sha256 = hex(&Sha256::digest(&bytes));
        let blob_id = hex(&Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), &bytes].concat()));
        let large = name.ends_with(".safetensors") || name.ends_with(".gguf");
        self.book().files.insert(name.into(), Arc::new(File { bytes: bytes.into(), sha256, blob_id, large }));
    }

    pub fn remove(&self, name: &str) {
        self.book().files.remove(name);
    }

    /// Plays `trick` in the answers to the next `times` requests whose path holds `part`.
    pub fn play(&self, part: &str, times: usize, trick: Trick) {
        self.book().rules.push(Rule { part: part.into(), storage: None, times, trick });
    }

    /// Works like [`Hub::play`], for requests to the storage.
    pub fn play_storage(&self, part: &str, times: usize, trick: Trick) {
        self.book().rules.push(Rule { part: part.into(), storage: Some(true), times, trick });
    }

    pub fn forget_tricks(&self) {
        self.book().rules.clear();
    }

    /// Lets the list state `size` for the file `name`.
    pub fn list_size(&self, name: &str, size: u64) {
        self.book().sizes.insert(name.into(), size);
    }

    /// Lets the hub answer 401 to requests without this token.
    pub fn ask_for_token(&self, token: &str) {
        self.book().token = Some(token.into());
    }

    /// Moves the branch `main` to another commit.
    pub fn move_main(&self, commit: &str) {
        self.book().commit = commit.into();
    }

    /// Returns every request since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.book().asked)
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(host): State<Host>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let asked = Asked {
        storage: host.storage.is_none(),
        path: path.clone(),
        authorization: text(header::AUTHORIZATION),
        range: text(header::RANGE),
        if_range: text(header::IF_RANGE),
    };
    let (trick, token) = {
        let mut book = lock(&host.book);
        book.asked.push(asked.clone());
        let meant = |rule: &&mut Rule| {
            rule.times > 0 && path.contains(&rule.part) && rule.storage.is_none_or(|storage| storage == asked.storage)
        };
        let rule = book.rules.iter_mut().find(meant);
        let trick = rule.map(|rule| {
            rule.times -= 1;
            rule.trick.clone()
        });
        (trick, book.token.clone())
    };
    match trick {
        Some(Trick::Status(code, after)) => return status(code, after),
        Some(Trick::Redirect(to)) => return redirect(&to),
        _ => (),
    }
    let shown = asked.authorization.as_deref().and_then(|shown| shown.strip_prefix("Bearer "));
    if host.storage.is_some() && token.is_some() && shown != token.as_deref() {
        return status(401, None);
    }
    route(&host, &path, request.headers(), trick)
}

fn route(host: &Host, path: &str, headers: &HeaderMap, trick: Option<Trick>) -> Response<Body> {
    let Some(storage) = host.storage else {
        return match find(host, path.trim_start_matches('/')) {
            Some(file) => content(host, &file, headers, trick),
            None => status(404, None),
        };
    };
    if path.starts_with(&format!("/api/models/{}/revision/", host.repository)) {
        let known = ["main", COMMIT].iter().any(|revision| path.ends_with(&format!("/revision/{revision}")));
        return if known { list(host) } else { missing("RevisionNotFound") };
    }
    let resolve = format!("/{}/resolve/", host.repository);
    let name = path.strip_prefix(&resolve).and_then(|rest| rest.split_once('/')).map(|(_, name)| name);
    match name.and_then(|name| Some((name, find(host, name)?))) {
        Some((name, file)) if file.large => redirect(&format!("http://{storage}/{name}?signature=secret")),
        Some((_, file)) => content(host, &file, headers, trick),
        None => missing("RepoNotFound"),
    }
}

fn find(host: &Host, name: &str) -> Option<Arc<File>> {
    lock(&host.book).files.get(name).cloned()
}

fn list(host: &Host) -> Response<Body> {
    let book = lock(&host.book);
    let file = |(name, file): (&String, &Arc<File>)| -> Value {
        let size = book.sizes.get(name).copied().unwrap_or(file.bytes.len() as u64);
        let lfs = file.large.then(|| json!({ "sha256": file.sha256, "size": size, "pointerSize": 135 }));
        json!({ "rfilename": name, "size": size, "blobId": file.blob_id, "lfs": lfs })
    };
    let siblings: Vec<Value> = book.files.iter().map(file).collect();
    let body = json!({ "sha": book.commit, "siblings": siblings }).to_string();
    Response::new(Body::from(body))
}

/// Answers with a file or a range of it, as a storage does.
fn content(host: &Host, file: &File, headers: &HeaderMap, trick: Option<Trick>) -> Response<Body> {
    let size = file.bytes.len();
    let etag = format!("\"{}\"", file.sha256);
    let fresh = headers.get(header::IF_RANGE).is_none_or(|named| named.to_str().ok() == Some(&etag));
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).and_then(|range| bounds(range, size));
    let asked = asked.filter(|_| fresh && trick != Some(Trick::NoRanges));
    let mut response = Response::builder().header(header::ETAG, etag);
    let (mut start, mut end) = asked.unwrap_or((0, size));
    if trick == Some(Trick::OtherRange) {
        (start, end) = (end.min(size - 1), size);
    }
    let total = match trick {
        Some(Trick::OtherTotal(more)) => size as u64 + more,
        _ => size as u64,
    };
    if asked.is_some() {
        response = response.status(StatusCode::PARTIAL_CONTENT);
        response = response.header(header::CONTENT_RANGE, format!("bytes {start}-{}/{total}", end - 1));
    }
    let mut bytes = file.bytes.slice(start..end);
    match trick {
        Some(Trick::Damaged) => bytes = bytes.iter().map(|byte| byte ^ 1).collect(),
        Some(Trick::Longer(more)) => {
            let longer = [&bytes[..], &vec![7; more]].concat();
            return response.body(Body::from_stream(chunks(longer.into(), None, None))).expect("a response");
        }
        _ => (),
    }
    let length = if let Some(Trick::Length(length)) = trick { length } else { bytes.len() as u64 };
    let cut = if let Some(Trick::Cut(after)) = trick { Some(after) } else { None };
    let pause = if let Some(Trick::Slow(pause)) = trick { Some((pause, host.book.clone())) } else { None };
    let response = response.header(header::CONTENT_LENGTH, length);
    response.body(Body::from_stream(chunks(bytes, cut, pause))).expect("a response")
}

/// Yields the bytes in pieces, each after a pause as long as there are rules. After `cut` bytes an error ends the
/// connection.
fn chunks(
    bytes: Bytes,
    cut: Option<usize>,
    pause: Option<(Duration, Arc<Mutex<Book>>)>,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::unfold(0, move |at| {
        let (bytes, pause) = (bytes.clone(), pause.clone());
        async move {
            if let Some((pause, _)) = pause.filter(|(_, book)| !lock(book).rules.is_empty()) {
                tokio::time::sleep(pause).await;
            }
            match cut {
                Some(cut) if at >= cut => {
                    // The earlier pieces are sent while the stream has nothing new. Then the connection breaks.
                    tokio::task::yield_now().await;
                    Some((Err(std::io::Error::other("cut")), usize::MAX))
                }
                _ if at >= bytes.len() => None,
                _ => {
                    let end = (at + CHUNK).min(bytes.len()).min(cut.unwrap_or(usize::MAX));
                    Some((Ok(bytes.slice(at..end)), end))
                }
            }
        }
    })
}

/// Parses a range: `bytes=0-4` becomes (0, 5).
fn bounds(range: &str, size: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    (first < size).then_some((first, (last + 1).min(size)))
}

fn status(code: u16, after: Option<u32>) -> Response<Body> {
    let mut response = Response::builder().status(code);
    if let Some(after) = after {
        response = response.header(header::RETRY_AFTER, after);
    }
    response.body(Body::empty()).expect("a response")
}

fn missing(code: &str) -> Response<Body> {
    Response::builder().status(404).header("X-Error-Code", code).body(Body::empty()).expect("a response")
}

fn redirect(to: &str) -> Response<Body> {
    Response::builder().status(302).header(header::LOCATION, to).body(Body::empty()).expect("a response")
}
