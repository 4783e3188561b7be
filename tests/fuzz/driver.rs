//! Replays the corpus of a target, and then inputs that random changes make of the corpus. It works on stable Rust.
//!
//! The same seed gives the same bytes. The driver adds an input that panics or takes too long to the corpus, and each
//! later run replays the input. Commit the input together with the change that mends the parser. If an input ends the
//! process, by memory or stack, its bytes are in the file that standard error names. `LOCKSTEP_FUZZ_SECONDS=600` fuzzes
//! for 600 seconds, with a new seed.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lockstep_tests::random::Random;

use crate::change::change_input;

/// Largest number of inputs that the driver makes of a corpus, if no time is given.
const MAX_INPUTS: usize = 200;
/// Longest time for which the driver makes inputs, if no time is given.
const FUZZ_TIME: Duration = Duration::from_secs(2);
/// Longest wait for a silent or running server, command or operation. Beyond it, the test counts the wait as a hang.
pub const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Time after which an input counts as hung.
const INPUT_TIMEOUT: Duration = Duration::from_secs(120);
/// Address space of the whole test, in bytes. A parser that believes a false length reaches this bound.
const MAX_MEMORY: u64 = 16 << 30;
/// Threads whose panics reach no caller: the task or the rank ends with the panic.
const THREADS: [&str; 4] = ["tokio-rt-worker", "rank-", "ring-listener", "heartbeat"];
/// Largest size of an input, in bytes.
pub const MAX_INPUT_BYTES: usize = 64 << 10;

/// Inputs of a target: its own corpus, and files of other tests, by a path with one `*`.
pub struct Seeds {
    pub name: &'static str,
    pub also: &'static [&'static str],
}

/// Replays the corpus and fuzzes from it.
pub fn run(seeds: &Seeds, target: impl Fn(&[u8])) {
    bound_memory();
    count_panics();
    let corpus = seeds.read();
    let target = Watched::new(seeds.name, target);
    for (path, input) in &corpus {
        assert!(target.survives(input), "{} breaks the parser", path.display());
    }
    let given = std::env::var("LOCKSTEP_FUZZ_SECONDS").ok().map(|text| text.parse().expect("whole seconds"));
    let seed = given.map_or(1, |_| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64));
    let deadline = Instant::now() + given.map_or(FUZZ_TIME, Duration::from_secs);
    let max_inputs = given.map_or(MAX_INPUTS, |_| usize::MAX);
    let mut random = Random::new(seed);
    let inputs: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    let mut made = 0;
    while made < max_inputs && Instant::now() < deadline {
        let input = change_input(&inputs, MAX_INPUT_BYTES, &mut random);
        made += 1;
        if !target.survives(&input) {
            let path = keep(seeds.name, &input);
            panic!("input {made} of seed {seed} breaks the parser: {}", path.display());
        }
    }
    println!("{made} inputs");
}

fn bound_memory() {
    let limit = rustix::process::Rlimit { current: Some(MAX_MEMORY), maximum: Some(MAX_MEMORY) };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).expect("bound the memory");
}

/// Panics on [`THREADS`], of all targets.
static PANICS: AtomicU64 = AtomicU64::new(0);

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            if thread.name().is_some_and(|name| THREADS.iter().any(|ours| name.starts_with(ours))) {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            usual(panic);
        }));
    });
}

impl Seeds {
    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
    }

    /// Reads all inputs, with their paths.
    fn read(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = list_files(&Self::folder(self.name), "");
        for pattern in self.also {
            let (folder, rest) = pattern.split_once('*').expect("one *");
            let found = list_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), rest);
            assert!(!found.is_empty(), "{pattern} names nothing");
            files.extend(found);
        }
        assert!(!files.is_empty(), "no corpus for {}", self.name);
        let read = |path: PathBuf| {
            let mut input = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            input.truncate(MAX_INPUT_BYTES);
            (path, input)
        };
        files.into_iter().map(read).collect()
    }
}

/// Lists the files whose path is `folder`, any name, and `rest`. `rest` may be a longer path below that name.
fn list_files(folder: &Path, rest: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = match rest.strip_prefix('/') {
        Some(below) => paths.map(|path| path.join(below)).filter(|path| path.is_file()).collect(),
        None => paths.filter(|path| path.to_str().is_some_and(|path| path.ends_with(rest))).collect(),
    };
    files.sort();
    files
}

/// Adds an input that broke the target to the corpus.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = Seeds::folder(name).join(format!("broke-{:016x}", hasher.finish()));
    std::fs::create_dir_all(Seeds::folder(name)).and_then(|()| std::fs::write(&path, input)).expect("keep the input");
    path
}

/// A target under watch: a file holds its current input, and each input has a time limit.
struct Watched<T> {
    target: T,
    /// File that holds the current input.
    path: PathBuf,
    /// Channel to the watching thread: `true` at the start of an input, `false` at its end.
    beats: Mutex<mpsc::Sender<bool>>,
}

impl<T: Fn(&[u8])> Watched<T> {
    fn new(name: &'static str, target: T) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
        let (beats, received) = mpsc::channel();
        let last = path.clone();
        std::thread::spawn(move || watch(name, &last, &received));
        Self { target, path, beats: Mutex::new(beats) }
    }

    fn beat(&self, begins: bool) {
        self.beats.lock().expect("no panic while it is held").send(begins).ok();
    }

    /// Runs the target. Returns true if no thread panicked.
    fn survives(&self, input: &[u8]) -> bool {
        std::fs::write(&self.path, input).expect("note the input");
        let panics = PANICS.load(Ordering::Relaxed);
        self.beat(true);
        let survived = catch_unwind(AssertUnwindSafe(|| (self.target)(input))).is_ok();
        self.beat(false);
        survived && PANICS.load(Ordering::Relaxed) == panics
    }
}

/// Ends the process if an input takes too long, and keeps the input.
fn watch(name: &str, input: &Path, beats: &mpsc::Receiver<bool>) {
    eprintln!("{name} keeps its current input in {}", input.display());
    let mut busy = false;
    loop {
        let wait = if busy { INPUT_TIMEOUT } else { Duration::MAX };
        match beats.recv_timeout(wait) {
            Ok(begins) => busy = begins,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let path = std::fs::read(input).map(|input| keep(name, &input)).unwrap_or_default();
                eprintln!("{name} hangs: {}", path.display());
                std::process::exit(101);
            }
        }
    }
}
