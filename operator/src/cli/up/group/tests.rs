//! Tests of the supervision of processes, with shells in place of agents.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::LocalGroup;
use crate::cli::up::console::Console;
use crate::cli::up::member::{GaveUp, Member};

/// Bound of every wait. On an idle machine, each wait takes milliseconds.
const BOUND: Duration = Duration::from_secs(60);

/// Script that waits until its standard input closes, as an agent does.
const FOLLOW: &str = "echo $$ >> $DIR/pids; cat > /dev/null";

fn shell(name: &str, script: &str, folder: &Path) -> Member {
    Member {
        name: name.into(),
        index: 0,
        is_head: name == "head",
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        variables: vec![("DIR".into(), folder.display().to_string())],
    }
}

fn start(members: Vec<Member>) -> LocalGroup {
    LocalGroup::start(members, &Arc::new(Console::new()))
}

/// Returns the lines of `file`. A missing file has none.
fn lines(folder: &Path, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn wait_until(condition: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BOUND, wait).await.unwrap_or_else(|_| panic!("waited for {condition}"));
}

/// Returns true if a process runs. A zombie does not run: the kernel only keeps its exit status.
fn is_alive(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
}

async fn wait_until_gone(folder: &Path) {
    let pids = lines(folder, "pids");
    wait_until("all processes to be gone", || !pids.iter().any(|pid| is_alive(pid))).await;
}

#[tokio::test]
async fn a_process_that_dies_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo $$ >> $DIR/pids; test $(wc -l < $DIR/pids) -ge 3 || exit 1; cat > /dev/null";
    let mut group = start(vec![shell("worker-0", script, folder.path())]);
    wait_until("three starts", || lines(folder.path(), "pids").len() == 3).await;
    tokio::time::timeout(BOUND, group.shut_down()).await.unwrap();
    assert_eq!(lines(folder.path(), "pids").len(), 3);
    wait_until_gone(folder.path()).await;
}

#[tokio::test]
async fn a_process_that_ends_with_status_2_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut group = start(vec![shell("head", "exit 2", folder.path()), shell("worker-0", FOLLOW, folder.path())]);
    let gave_up = tokio::time::timeout(BOUND, group.wait_for_failure()).await.unwrap();
    assert!(matches!(&gave_up, GaveUp::Died { name, how, .. } if name == "head" && how == "ended with status 2"));
    tokio::time::timeout(BOUND, group.shut_down()).await.unwrap();
    wait_until_gone(folder.path()).await;
}

#[tokio::test]
async fn a_missing_program_is_given_up() {
    let mut member = shell("head", "", Path::new("/"));
    member.program = "/no/such/program".into();
    let failure = tokio::time::timeout(BOUND, start(vec![member]).wait_for_failure()).await.unwrap().to_string();
    assert!(failure.starts_with("cannot start head (/no/such/program)"), "{failure}");
}

#[tokio::test]
async fn the_head_ends_before_the_workers() {
    let folder = tempfile::tempdir().unwrap();
    let member = |name: &str| {
        let trap = format!("trap 'echo {name} >> $DIR/ended; exit 0' TERM; echo $$ >> $DIR/pids");
        shell(name, &format!("{trap}; while :; do sleep 0.05; done"), folder.path())
    };
    let mut group = start(vec![member("worker-0"), member("head"), member("worker-1")]);
    wait_until("three starts", || lines(folder.path(), "pids").len() == 3).await;
    tokio::time::timeout(BOUND, group.shut_down()).await.unwrap();
    let ended = lines(folder.path(), "ended");
    assert_eq!((ended.len(), ended[0].as_str()), (3, "head"));
    wait_until_gone(folder.path()).await;
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' TERM; sleep 600 & echo $! >> $DIR/pids; echo $$ >> $DIR/pids; while :; do sleep 1; done";
    let mut group = start(vec![shell("head", script, folder.path())]);
    wait_until("the start", || lines(folder.path(), "pids").len() == 2).await;
    tokio::time::timeout(BOUND, group.kill()).await.unwrap();
    wait_until_gone(folder.path()).await;
}

#[tokio::test]
async fn a_dropped_group_leaves_no_orphan() {
    let folder = tempfile::tempdir().unwrap();
    let group = start(vec![shell("head", FOLLOW, folder.path()), shell("worker-0", FOLLOW, folder.path())]);
    wait_until("two starts", || lines(folder.path(), "pids").len() == 2).await;
    drop(group);
    wait_until_gone(folder.path()).await;
}

/// The processes do not inherit variables of the contract from the shell that starts `lockstep`.
#[tokio::test]
async fn a_process_gets_only_its_own_variables() {
    let folder = tempfile::tempdir().unwrap();
    let mut member = shell("head", "env > $DIR/new; mv $DIR/new $DIR/env; cat > /dev/null", folder.path());
    member.variables.push(("LOCKSTEP_THREADS".into(), "3".into()));
    let mut group = start(vec![member]);
    wait_until("the environment", || !lines(folder.path(), "env").is_empty()).await;
    let contract =
        |line: &&String| line.starts_with("MISTRALRS_") || line.starts_with("RING_") || line.starts_with("LOCKSTEP_T");
    let env = lines(folder.path(), "env");
    assert_eq!(env.iter().filter(contract).collect::<Vec<_>>(), ["LOCKSTEP_THREADS=3"]);
    tokio::time::timeout(BOUND, group.shut_down()).await.unwrap();
}
