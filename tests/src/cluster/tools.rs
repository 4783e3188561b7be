//! Tools of tests inside the cluster: `kubectl`, `helm`, namespaces of their own, and waits with a bound.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

/// Pause between two checks of a condition that a test waits for.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs `kubectl` as the cluster's admin. Returns its output without the last newline; the error holds what it printed
/// on standard error.
pub fn kubectl(arguments: &[&str]) -> Result<String> {
    run("kubectl", arguments)
}

/// Runs `helm` as the cluster's admin and returns its output.
pub fn helm(arguments: &[&str]) -> Result<String> {
    run("helm", arguments)
}

/// Applies manifests as `kubectl apply` does. Objects without a namespace go into `namespace`.
pub fn apply(namespace: &str, manifests: &str) -> Result<String> {
    let mut command = Command::new("kubectl");
    command.args(["-n", namespace, "apply", "-f", "-"]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("run kubectl")?;
    let mut input = child.stdin.take().context("kubectl's input")?;
    input.write_all(manifests.as_bytes()).context("write manifests to kubectl")?;
    drop(input);
    output_of("kubectl apply", child.wait_with_output()?)
}

/// Runs a program and returns its output.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {program}: does this test run inside the cluster?"))?;
    output_of(&format!("{program} {}", arguments.join(" ")), output)
}

fn output_of(what: &str, output: std::process::Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// Calls `look` until it succeeds, and returns its result. After `bound` the error holds the last error of `look`.
pub fn eventually<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(last) if began.elapsed() > bound => return Err(timed_out(what, bound, &last)),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Works like [`eventually`], for futures.
pub async fn eventually_async<T, F>(what: &str, bound: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let began = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(last) if began.elapsed() > bound => return Err(timed_out(what, bound, &last)),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn timed_out(what: &str, bound: Duration, last: &anyhow::Error) -> anyhow::Error {
    anyhow!("timed out after {} s while waiting for {what}; last seen: {last:#}", bound.as_secs())
}

/// Namespace of one test. Dropping the value deletes it with all objects in it.
pub struct Namespace(String);

impl Namespace {
    /// Makes a namespace whose name begins with `prefix`, and waits until pods can be made in it.
    pub fn new(prefix: &str) -> Result<Self> {
        let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("read the clock")?;
        let namespace = Self(format!("{prefix}-{:x}", age.as_millis()));
        kubectl(&["create", "namespace", namespace.name()])?;
        eventually("the namespace's service account", Duration::from_secs(30), || {
            kubectl(&["-n", namespace.name(), "get", "serviceaccount", "default"])
        })?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// Runs `kubectl` in the namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kubectl(&[&["-n", self.name()], arguments].concat())
    }

    /// Applies manifests in the namespace.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        apply(self.name(), manifests)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        kubectl(&["delete", "namespace", self.name(), "--wait=false"]).ok();
    }
}

/// Prints the state of the cluster, for a test that failed, and the last words of each container that has restarted.
pub(super) fn show() {
    const RESTARTS: &str = "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name} \
                            {range .status.containerStatuses[*]}{.name}={.restartCount} {end}{\"\\n\"}{end}";
    let look = |arguments: &[&str]| kubectl(arguments).unwrap_or_else(|error| format!("{error:#}"));
    let print = |arguments: &[&str]| eprintln!("--- kubectl {}\n{}", arguments.join(" "), look(arguments));
    let looks: [&[&str]; 3] = [
        &["get", "nodes"],
        &["get", "pods", "--all-namespaces", "-o", "wide"],
        &["events", "--all-namespaces", "--types=Warning"],
    ];
    looks.into_iter().for_each(print);
    for pod in look(&["get", "pods", "--all-namespaces", "-o", RESTARTS]).lines() {
        let mut words = pod.split_whitespace();
        let (Some(namespace), Some(name)) = (words.next(), words.next()) else { continue };
        for (container, _) in words.filter_map(|word| word.split_once('=')).filter(|(_, count)| *count != "0") {
            print(&["-n", namespace, "logs", name, "-c", container, "--previous", "--tail=20"]);
        }
    }
}
