//! The process of the head's own ranks: a child of the same binary. When to start and to kill it is decided in
//! [`OwnRanks`].

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lockstep_group::head::{OwnRanks, OwnRanksAction};
use lockstep_proto::v1::ClusterStatus;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{HeadConfig, LogConfig};

/// Returns the command that starts the head's own node.
///
/// # Errors
/// Fails if this program cannot find its own file.
pub(super) fn own_ranks_command(
    config: &HeadConfig,
    log: &LogConfig,
    control: SocketAddr,
    cluster_id: &str,
) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("find this program's own file, to start the head's ranks")?;
    let arguments = config.own_node(control, cluster_id).to_arguments(log);
    let arguments = arguments.context("the head's own control address is not known")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// Keeps the child process running until `stop`, then gives the child `grace` to end by itself. Kills a child that hangs, as
/// `status` tells.
///
/// The child ends when its standard input closes, so a killed head leaves no orphan.
pub(super) async fn keep_running(
    mut command: Command,
    mut status: watch::Receiver<ClusterStatus>,
    stop: CancellationToken,
    grace: Duration,
) {
    // The child has a process group of its own, so Ctrl-C in the terminal reaches only the head. The head then tells
    // its ranks to end.
    command.stdin(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut own_ranks = OwnRanks::new(Instant::now());
    let mut running: Option<RunningChild> = None;
    loop {
        let wait_until = match own_ranks.next_action(Instant::now()) {
            OwnRanksAction::Start => {
                running = start_child(&mut command, &mut own_ranks);
                continue;
            }
            OwnRanksAction::Kill => {
                if let Some(mut child) = running.take() {
                    tracing::error!(
                        pid = child.pid,
                        "the head's own ranks hang and are lost to the group for 20 s: killing them"
                    );
                    child.process.kill().await.ok();
                }
                own_ranks.record_end(Instant::now());
                continue;
            }
            OwnRanksAction::Wait(until) => until,
        };
        tokio::select! {
            exit = ended(&mut running) => {
                let pid = running.take().map(|child| child.pid);
                tracing::warn!(pid, status = describe_exit(exit), "the head's own ranks ended");
                own_ranks.record_end(Instant::now());
            }
            Ok(()) = status.changed() => own_ranks.record_status(&status.borrow_and_update(), Instant::now()),
            () = sleep_until(wait_until) => (),
            () = stop.cancelled() => {
                if let Some(child) = running {
                    stop_child(child.process, grace).await;
                }
                return;
            }
        }
    }
}

/// A child process that runs.
struct RunningChild {
    process: Child,
    pid: u32,
    /// `wait` would close the child's standard input, and the child would end. So the pipe is held open here.
    _lifeline: Option<ChildStdin>,
}

fn start_child(command: &mut Command, own_ranks: &mut OwnRanks) -> Option<RunningChild> {
    match command.spawn() {
        Ok(mut process) => {
            let (pid, _lifeline) = (process.id().unwrap_or_default(), process.stdin.take());
            tracing::info!(pid, "started the head's own ranks");
            own_ranks.record_start(pid, Instant::now());
            Some(RunningChild { process, pid, _lifeline })
        }
        Err(error) => {
            tracing::error!(%error, "cannot start the head's own ranks");
            own_ranks.record_end(Instant::now());
            None
        }
    }
}

/// Waits for the child's end, or for ever if there is none.
async fn ended(running: &mut Option<RunningChild>) -> std::io::Result<ExitStatus> {
    match running {
        Some(child) => child.process.wait().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

fn describe_exit(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// Waits for the child to end, and kills it after `grace`. The head has told the child to drain by then.
async fn stop_child(mut child: Child, grace: Duration) {
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        tracing::warn!(pid = child.id(), "the head's own ranks did not end in time: killing them");
        child.kill().await.ok();
    }
}
