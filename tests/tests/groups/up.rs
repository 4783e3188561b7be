//! `lockstep up` as users run it: the quickstart answers, dead processes are started again, and no process outlives the
//! command.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lockstep_tests::client::{Client, greedy};
use lockstep_tests::manifests;
use lockstep_tests::process::{LONGEST_WAIT, Process, children, free_port, is_alive, program, signal_process};

fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples/quickstart.yaml")
}

fn up(arguments: &[&str]) -> Process {
    up_of(&quickstart(), arguments)
}

fn up_of(manifest: &Path, arguments: &[&str]) -> Process {
    let mut command = Command::new(program("lockstep"));
    command.arg("up").arg(manifest).args(arguments).env("LOCKSTEP_AGENT", program("lockstep-agent"));
    Process::start("lockstep up", command)
}

/// Returns the ids of a process's children and grandchildren.
fn family(pid: u32) -> BTreeSet<u32> {
    let own = children(pid);
    let theirs = own.iter().flat_map(|child| children(*child));
    own.iter().copied().chain(theirs).collect()
}

fn await_end(family: &BTreeSet<u32>) {
    let began = Instant::now();
    while family.iter().any(|pid| is_alive(*pid)) {
        assert!(began.elapsed() < LONGEST_WAIT, "some of {family:?} outlive `lockstep up`");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a group that serves, and returns it with a client.
async fn start_serving() -> (Process, Client) {
    let port = free_port();
    let mut group = up(&["--grpc-port", &port.to_string()]);
    group.await_output("ready: tiny serves on 3 ranks");
    (group, Client::connect(port).await.expect("connect"))
}

#[test]
fn the_quickstart_answers_and_ends() {
    let mut group = up(&["--prompt", "What happens when a worker dies?", "--temperature", "0"]);
    let status = group.wait();
    let output = group.all_output();
    assert!(status.success(), "{output}");
    for part in ["head", "tokens/s", "Serving"] {
        assert!(output.contains(part), "no `{part}` in:\n{output}");
    }
}

#[test]
fn pipeline_stages_of_a_manifest_answer() {
    let manifest = tempfile::NamedTempFile::new().expect("a file");
    let spec = "{ model: { source: 'builtin://tiny' }, workers: 1, devicesPerNode: 2, parallelism: { pipeline: 2 } }";
    std::fs::write(manifest.path(), manifests::cluster("staged", spec)).expect("write");
    let mut group = up_of(manifest.path(), &["--prompt", "What does the head do?", "--temperature", "0"]);
    let status = group.wait();
    let output = group.all_output();
    assert!(status.success(), "{output}");
    assert!(output.contains("4 ranks (2 stages × 2) on 2 nodes") && output.contains("head"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_is_started_again() {
    let (mut group, mut client) = start_serving().await;
    let before = client.status().await.expect("a status");
    signal_process(before.ranks[2].pid, "KILL");
    group.await_output("ready again, in epoch ");
    let after = client.status().await.expect("a status");
    assert!(after.epoch > before.epoch);
    assert_ne!(after.ranks[2].pid, before.ranks[2].pid);
    assert_eq!(after.ranks[0].pid, before.ranks[0].pid);
    assert_eq!(client.generate(greedy(&[300], 3)).await.expect("an answer").tokens.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_and_sigkill_leave_nothing() {
    for signal in ["INT", "KILL"] {
        let (mut group, _client) = start_serving().await;
        let family = family(group.id());
        assert_eq!(family.len(), 4, "a head, its rank and two workers");
        group.signal(signal);
        group.wait();
        drop(group);
        await_end(&family);
    }
}
