//! A child process. [`Process`] keeps its output, and ends it when dropped.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest time to read the last output of a process that ended. A child of that process may hold the pipe open for
/// ever.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest time that a test waits for a process.
pub const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Returns the path of a program of this workspace, which `cargo build --workspace` puts beside the tests.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.ancestors().nth(2).expect("target/debug/deps/test");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace` first", path.display());
    path
}

/// Running process.
pub struct Process {
    pub name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// Lines of standard output. `lines` holds these and the lines of standard error.
    stdout: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` with its output kept and its standard input held open.
    pub fn start(name: impl Into<String>, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start a process");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = Arc::new(Mutex::new(Vec::new()));
        let out = child.stdout.take().map(|out| keep(out, vec![lines.clone(), stdout.clone()]));
        let err = child.stderr.take().map(|err| keep(err, vec![lines.clone()]));
        let readers = out.into_iter().chain(err).collect();
        Self { name: name.into(), child, lines, stdout, readers }
    }

    /// Writes `text` and a newline to the process's standard input.
    pub fn write_line(&mut self, text: &str) {
        let mut input = self.child.stdin.as_ref().expect("an open standard input");
        writeln!(input, "{text}").expect("write to a process");
    }

    /// Closes the process's standard input.
    pub fn hang_up(&mut self) {
        self.child.stdin.take();
    }

    /// Returns the process's standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.lock().expect("lines").join("\n")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the process's standard output and standard error so far.
    pub fn all_output(&self) -> String {
        self.lines.lock().expect("lines").join("\n")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("look at a process").is_none()
    }

    /// Sends a signal by its name, e.g. `TERM`.
    pub fn signal(&self, signal: &str) {
        signal_process(self.id(), signal);
    }

    /// Waits for the process's end, and for its last output.
    pub fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("look at a process") {
                let ended = Instant::now();
                while self.readers.iter().any(|reader| !reader.is_finished()) && ended.elapsed() < LAST_OUTPUT_TIMEOUT {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return status;
            }
            assert!(began.elapsed() < LONGEST_WAIT, "{} did not end:\n{}", self.name, self.all_output());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends SIGKILL, and waits for the process's end.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Waits until `text` is in the process's standard output or standard error.
    pub fn await_output(&mut self, text: &str) {
        let began = Instant::now();
        while !self.all_output().contains(text) {
            if !self.is_running() {
                // The last lines may not have been read yet.
                self.wait();
                assert!(
                    self.all_output().contains(text),
                    "{} ended and did not say `{text}`:\n{}",
                    self.name,
                    self.all_output()
                );
                return;
            }
            assert!(began.elapsed() < LONGEST_WAIT, "{} did not say `{text}`:\n{}", self.name, self.all_output());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Reads an output, and keeps each line in all `places`.
fn keep(output: impl Read + Send + 'static, places: Vec<Arc<Mutex<Vec<String>>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            places.iter().for_each(|lines| lines.lock().expect("lines").push(line.clone()));
        }
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} (pid {})\n{}", self.name, self.id(), self.all_output());
        }
    }
}

/// Sends a signal to a process that the test started, directly or through another process.
pub fn signal_process(pid: u32, signal: &str) {
    signal_processes(&[pid], signal);
}

/// Sends a signal to several processes of the test, one right after another.
pub fn signal_processes(pids: &[u32], signal: &str) {
    let mut command = Command::new("kill");
    command.arg(format!("-{signal}")).args(pids.iter().map(u32::to_string));
    assert!(command.status().expect("run kill").success(), "kill -{signal} {pids:?}");
}

/// Returns true if a process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

/// Returns the memory that a process has now, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Returns the ids of a process's children.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let list = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let all: String = tasks.flatten().map(list).collect::<Vec<_>>().join(" ");
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// First port for processes of tests. `lockstep up` takes the ports above these [`PORTS`] ports.
const FIRST_PORT: u16 = 12_000;
const PORTS: u16 = 10_000;

/// Returns a port that was free a moment ago. The system gives it to no process that asks for any free port, because
/// those ports begin at 32768. The next call returns another port, also if the caller's process has not bound this one
/// yet.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id() * 97;
    let candidates = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed));
    let ports = candidates.map(|count| FIRST_PORT + ((own + count) % u32::from(PORTS)) as u16);
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.take(usize::from(PORTS)).find(is_free).expect("a free port")
}
