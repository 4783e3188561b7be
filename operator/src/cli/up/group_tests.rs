//! Supervision, with shells in the agents' place.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::console::Console;
use super::super::member::{GaveUp, Member};
use super::Group;

/// A generous bound: what is waited for takes milliseconds on an idle machine.
const BOUND: Duration = Duration::from_secs(60);

/// Waits for its standard input to close, as an agent does.
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

fn start(members: Vec<Member>) -> Group {
    Group::start(members, &Arc::new(Console::new()))
}

/// Lines of `file`; empty where there is none yet.
fn lines(folder: &Path, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BOUND, wait).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

/// A zombie has ended: only its status is kept.
fn alive(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
}

async fn gone(folder: &Path) {
    let pids = lines(folder, "pids");
    until("all to be gone", || !pids.iter().any(|pid| alive(pid))).await;
}

#[tokio::test]
async fn what_dies_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo $$ >> $DIR/pids; test $(wc -l < $DIR/pids) -ge 3 || exit 1; cat > /dev/null";
    let mut group = start(vec![shell("worker-0", script, folder.path())]);
    until("three starts", || lines(folder.path(), "pids").len() == 3).await;
    tokio::time::timeout(BOUND, group.end()).await.unwrap();
    assert_eq!(lines(folder.path(), "pids").len(), 3);
    gone(folder.path()).await;
}

#[tokio::test]
async fn what_was_told_something_wrong_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut group = start(vec![shell("head", "exit 2", folder.path()), shell("worker-0", FOLLOW, folder.path())]);
    let gave_up = tokio::time::timeout(BOUND, group.gave_up()).await.unwrap();
    assert!(matches!(&gave_up, GaveUp::Died { name, how } if name == "head" && how == "ended with status 2"));
    tokio::time::timeout(BOUND, group.end()).await.unwrap();
    gone(folder.path()).await;
}

#[tokio::test]
async fn a_missing_program_is_given_up() {
    let mut member = shell("head", "", Path::new("/"));
    member.program = "/no/such/program".into();
    let told = tokio::time::timeout(BOUND, start(vec![member]).gave_up()).await.unwrap().to_string();
    assert!(told.starts_with("cannot start head (/no/such/program)"), "{told}");
}

#[tokio::test]
async fn the_head_ends_before_the_workers() {
    let folder = tempfile::tempdir().unwrap();
    let member = |name: &str| {
        let trap = format!("trap 'echo {name} >> $DIR/ended; exit 0' TERM; echo $$ >> $DIR/pids");
        shell(name, &format!("{trap}; while :; do sleep 0.05; done"), folder.path())
    };
    let mut group = start(vec![member("worker-0"), member("head"), member("worker-1")]);
    until("three starts", || lines(folder.path(), "pids").len() == 3).await;
    tokio::time::timeout(BOUND, group.end()).await.unwrap();
    let ended = lines(folder.path(), "ended");
    assert_eq!((ended.len(), ended[0].as_str()), (3, "head"));
    gone(folder.path()).await;
}

#[tokio::test]
async fn what_ignores_its_end_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' TERM; sleep 600 & echo $! >> $DIR/pids; echo $$ >> $DIR/pids; while :; do sleep 1; done";
    let mut group = start(vec![shell("head", script, folder.path())]);
    until("its start", || lines(folder.path(), "pids").len() == 2).await;
    tokio::time::timeout(BOUND, group.kill()).await.unwrap();
    gone(folder.path()).await;
}

#[tokio::test]
async fn a_group_that_is_dropped_leaves_no_orphan() {
    let folder = tempfile::tempdir().unwrap();
    let group = start(vec![shell("head", FOLLOW, folder.path()), shell("worker-0", FOLLOW, folder.path())]);
    until("two starts", || lines(folder.path(), "pids").len() == 2).await;
    drop(group);
    gone(folder.path()).await;
}

/// Variables of the contract in the shell that `lockstep` is started from do not reach the processes.
#[tokio::test]
async fn a_process_reads_its_own_variables_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut member = shell("head", "env > $DIR/new; mv $DIR/new $DIR/env; cat > /dev/null", folder.path());
    member.variables.push(("LOCKSTEP_THREADS".into(), "3".into()));
    let mut group = start(vec![member]);
    until("its environment", || !lines(folder.path(), "env").is_empty()).await;
    let contract =
        |line: &&String| line.starts_with("MISTRALRS_") || line.starts_with("RING_") || line.starts_with("LOCKSTEP_T");
    let env = lines(folder.path(), "env");
    assert_eq!(env.iter().filter(contract).collect::<Vec<_>>(), ["LOCKSTEP_THREADS=3"]);
    tokio::time::timeout(BOUND, group.end()).await.unwrap();
}
