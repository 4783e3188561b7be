//! Files that a download leaves in the cache, and the requests that it makes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lockstep_engine::source::ModelFiles as _;
use lockstep_hub::{
    Hub as Client, HubConfig, HubError, HubModel, Limits, Meter, Progress, RemoteFiles, RetryPolicy, Revision,
    Snapshot, Token, TokenSource,
};
use lockstep_proto::backoff::Backoff;
use lockstep_tests::hub::{COMMIT, Hub, Trick};

pub const WEIGHTS: &str = "model.safetensors";
/// Size of the large file: not a whole number of pieces.
pub const SIZE: usize = 100_003;

/// Hub with a small and a large file, and an empty cache.
pub struct Scene {
    pub hub: Hub,
    pub folder: tempfile::TempDir,
    pub config: HubConfig,
}

pub fn bytes() -> Vec<u8> {
    (0..SIZE).map(|at| (at * 31 % 251) as u8).collect()
}

pub fn limits() -> Limits {
    let millis = Duration::from_millis;
    let retry = RetryPolicy { tries: 4, pauses: Backoff::new(millis(1), millis(4)), longest_requested: millis(20) };
    let (idle_timeout, poll_interval) = (millis(60_000), millis(5));
    Limits { piece_bytes: 4096, pieces_per_request: 4, connections: 3, idle_timeout, poll_interval, retry }
}

impl Scene {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        let hub = Hub::start("org/name", &empty).await;
        hub.add("config.json", b"{}".to_vec());
        hub.add(WEIGHTS, bytes());
        let config = HubConfig {
            endpoint: hub.endpoint().parse().unwrap(),
            cache: Some(folder.path().join("cache")),
            token: TokenSource::Nowhere,
            offline: false,
        };
        Self { hub, folder, config }
    }

    pub fn client(&self) -> Client {
        Client::new(&self.config, limits()).unwrap()
    }

    pub async fn resolve(&self) -> Result<Snapshot, HubError> {
        self.client().resolve(&model("main")).await
    }

    /// Fetches everything that the hub lists.
    pub async fn fetch(&self) -> Result<PathBuf, HubError> {
        let snapshot = self.resolve().await?;
        self.download(&snapshot, &Meter::new().0).await
    }

    pub async fn download(&self, snapshot: &Snapshot, meter: &Meter) -> Result<PathBuf, HubError> {
        self.client().download(&model("main").repository, &snapshot.commit, &snapshot.files, meter).await
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("cache/models--org--name")
    }
}

/// Returns the model that follows `hf://`.
pub fn source(text: &str) -> HubModel {
    text.parse().unwrap()
}

pub fn model(revision: &str) -> HubModel {
    let revision: Revision = revision.parse().unwrap();
    HubModel { revision, ..source("org/name") }
}

pub fn whole(folder: &Path) {
    assert!(std::fs::read(folder.join(WEIGHTS)).unwrap() == bytes(), "the weights are others");
    assert_eq!(std::fs::read(folder.join("config.json")).unwrap(), b"{}");
}

/// Returns true if a part of the file `name` is in the cache, and not the whole file.
pub fn is_partial(scene: &Scene, snapshot: &Snapshot, name: &str) -> bool {
    let id = &snapshot.file(name).unwrap().id;
    scene.root().join("blobs").join(format!("{id}.parts")).exists()
}

#[tokio::test]
async fn files_come_in_ranges_and_have_the_usual_layout() {
    let scene = Scene::new().await;
    let snapshot = scene.resolve().await.unwrap();
    assert_eq!(snapshot.commit, COMMIT);
    scene.hub.asked();
    let (meter, progress) = Meter::new();
    let folder = scene.download(&snapshot, &meter).await.unwrap();
    whole(&folder);
    assert_eq!(folder, scene.root().join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(scene.root().join("refs/main")).unwrap(), COMMIT);
    let id = &snapshot.file(WEIGHTS).unwrap().id;
    assert_eq!(std::fs::read_link(folder.join(WEIGHTS)).unwrap(), Path::new("../../blobs").join(id.as_str()));
    assert!(!is_partial(&scene, &snapshot, WEIGHTS));
    let total = SIZE as u64 + 2;
    let last = *progress.borrow();
    assert_eq!((last.bytes, last.total), (total, total));
    assert!(last.checked >= total, "checked bytes count: {last:?}");

    let asked = scene.hub.asked();
    let of_storage: Vec<_> = asked.iter().filter(|asked| asked.storage).collect();
    assert_eq!(of_storage.len(), SIZE.div_ceil(4 * 4096), "a question for each run");
    assert!(of_storage.iter().all(|asked| asked.range.is_some()));
    assert!(of_storage[1..].iter().all(|asked| asked.if_range.is_some()), "of the same content: {of_storage:?}");
    assert_eq!(asked.len() - of_storage.len(), 2, "where a file is, is asked once: {asked:?}");

    // All files are in the cache, so the client makes no request.
    scene.download(&snapshot, &meter).await.unwrap();
    assert_eq!(scene.hub.asked(), []);
}

#[tokio::test]
async fn a_commit_that_shares_files_shares_blobs() {
    let mut scene = Scene::new().await;
    scene.fetch().await.unwrap();
    scene.hub.asked();
    let other = "f".repeat(40);
    scene.hub.move_main(&other);
    let folder = scene.fetch().await.unwrap();
    assert!(folder.ends_with(&other));
    whole(&folder);
    assert!(scene.hub.asked().iter().all(|asked| asked.path.starts_with("/api/")), "no byte came twice");

    // Offline, the cache's own branch is the last one that the client fetched.
    scene.config.offline = true;
    assert_eq!(scene.resolve().await.unwrap().commit, other);
    assert_eq!(scene.client().resolve(&model(COMMIT)).await.unwrap().commit, COMMIT);
    whole(&scene.fetch().await.unwrap());
    assert_eq!(scene.hub.asked(), []);
    let message = scene.client().resolve(&model("v2")).await.unwrap_err().to_string();
    assert!(
        message.contains("hf://org/name at v2 is not in the cache") && message.contains("HF_HUB_OFFLINE"),
        "{message}"
    );
    let snapshot = scene.resolve().await.unwrap();
    std::fs::remove_file(scene.root().join("blobs").join(snapshot.file(WEIGHTS).unwrap().id.as_str())).unwrap();
    let message = scene.download(&snapshot, &Meter::new().0).await.unwrap_err().to_string();
    assert!(
        message.contains("model.safetensors of hf://org/name") && message.contains("is not in the cache"),
        "{message}"
    );
}

#[tokio::test]
async fn a_hub_that_cannot_be_reached_is_not_needed_twice() {
    let mut scene = Scene::new().await;
    whole(&scene.fetch().await.unwrap());
    // No process listens at this address.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    scene.config.endpoint = format!("http://{unused}").parse().unwrap();
    whole(&scene.fetch().await.unwrap());
    scene.config.cache = Some(scene.folder.path().join("another"));
    let message = scene.resolve().await.unwrap_err().to_string();
    assert!(message.contains("after 4 tries") && message.contains(&unused.to_string()), "{message}");
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_nowhere_else() {
    let mut scene = Scene::new().await;
    scene.hub.ask_for_token("hf_secret");
    let message = scene.fetch().await.unwrap_err().to_string();
    assert!(message.contains("401") && message.contains("set HF_TOKEN"), "{message}");
    let file = scene.folder.path().join("token");
    std::fs::write(&file, "hf_secret\n").unwrap();
    for token in [TokenSource::Given(Token::new("hf_secret").unwrap()), TokenSource::File(file)] {
        scene.config.token = token;
        scene.config.cache = Some(scene.folder.path().join(format!("{:?}", scene.config.token)));
        scene.hub.asked();
        whole(&scene.fetch().await.unwrap());
        let asked = scene.hub.asked();
        assert!(asked.iter().any(|asked| asked.storage));
        for asked in asked {
            let expected = (!asked.storage).then(|| "Bearer hf_secret".to_owned());
            assert_eq!(asked.authorization, expected, "{}", asked.path);
        }
    }
}

#[tokio::test]
async fn processes_share_one_cache() {
    let scene = Arc::new(Scene::new().await);
    for name in ["a.safetensors", "b.safetensors", "c.safetensors"] {
        scene.hub.add(name, name.repeat(3000).into_bytes());
    }
    let snapshot = scene.resolve().await.unwrap();
    scene.hub.asked();
    // Each task has clients and locks of its own, as a process has. A lock belongs to an open file.
    let fetch = || async {
        let (meter, progress) = Meter::new();
        let folder = scene.download(&snapshot, &meter).await.unwrap();
        (folder, *progress.borrow())
    };
    let done = futures::future::join_all((0..4).map(|_| fetch())).await;
    for (folder, Progress { bytes, total, .. }) in done {
        whole(&folder);
        assert_eq!(bytes, total);
    }
    let mut ranges: Vec<_> = scene.hub.asked().into_iter().filter(|asked| asked.storage).collect();
    let all = ranges.len();
    ranges.sort_by_key(|asked| (asked.path.clone(), asked.range.clone()));
    ranges.dedup();
    assert_eq!(ranges.len(), all, "a range was fetched twice");
}

#[tokio::test]
async fn fetched_files_are_not_fetched_again() {
    let scene = Scene::new().await;
    let snapshot = scene.resolve().await.unwrap();
    scene.hub.play_storage(WEIGHTS, 1000, Trick::Slow(Duration::from_millis(2)));
    let (meter, mut progress) = Meter::new();
    tokio::select! {
        done = scene.download(&snapshot, &meter) => panic!("{done:?} before it was interrupted"),
        _ = progress.wait_for(|progress| progress.bytes > 30_000) => (),
    }
    assert!(is_partial(&scene, &snapshot, WEIGHTS));
    scene.hub.forget_tricks();
    scene.hub.asked();
    whole(&scene.download(&snapshot, &meter).await.unwrap());
    let weights = format!("/{WEIGHTS}");
    let asked: Vec<_> = scene.hub.asked().into_iter().filter(|asked| asked.storage && asked.path == weights).collect();
    assert!(!asked.is_empty());
    assert!(!asked.iter().any(|asked| asked.range.as_deref().unwrap().starts_with("bytes=0-")), "{asked:?}");
}

#[tokio::test]
async fn a_download_can_be_dropped_at_any_moment() {
    let scene = Scene::new().await;
    let snapshot = scene.resolve().await.unwrap();
    for tenths_of_ms in 0..60 {
        let (cache, (meter, _)) = (scene.root(), Meter::new());
        tokio::select! {
            done = scene.download(&snapshot, &meter) => whole(&done.unwrap()),
            () = tokio::time::sleep(Duration::from_micros(100) * tenths_of_ms) => (),
        }
        // The next download begins while the dropped one may still be writing on another thread.
        whole(&scene.download(&snapshot, &Meter::new().0).await.unwrap());
        std::fs::remove_dir_all(cache).unwrap();
    }
}

/// The header of a GGUF file may have megabytes. The head reads it in blocks of 256 KiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_reads_each_block_of_a_long_header_once() {
    const NAME: &str = "X-Q8_0.gguf";
    const BLOCK: usize = 256 << 10;
    let scene = Scene::new().await;
    let bytes: Vec<u8> = (0..5 * BLOCK + 17).map(|at| (at * 31 % 251) as u8).collect();
    scene.hub.add(NAME, bytes.clone());
    let model = source("org/name:Q8_0");
    let snapshot = scene.client().resolve(&model).await.unwrap();
    scene.hub.asked();
    let hub = Arc::new(scene.client());
    let files = RemoteFiles::open(hub, &model, &snapshot, &[NAME.to_owned()]).await.unwrap();
    let length = bytes.len();
    let read = move || {
        assert_eq!(files.size("config.json").unwrap(), None, "the source names one file");
        let mut read = vec![0; length];
        for (index, part) in read.chunks_mut(100_000).enumerate() {
            files.read_at(NAME, index as u64 * 100_000, part).unwrap();
        }
        read
    };
    assert!(tokio::task::spawn_blocking(read).await.unwrap() == bytes, "other bytes");
    let mut ranges: Vec<_> =
        scene.hub.asked().into_iter().filter(|asked| asked.storage).map(|asked| asked.range).collect();
    assert_eq!(ranges.len(), 6, "{ranges:?}");
    ranges.sort();
    ranges.dedup();
    assert_eq!(ranges.len(), 6, "a block was fetched twice");
}
