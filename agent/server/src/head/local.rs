//! The head's own ranks: a child process of the same binary. The head starts it again when it dies.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lockstep_proto::backoff::Backoff;
use lockstep_proto::v1::{ClusterStatus, Phase};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{HeadConfig, LogConfig};

/// Pauses between the child's death and its next start.
const RESTART_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
/// Lifetime after which a child counts as healthy, even if its ranks never served. The pauses then start again from the
/// shortest.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// Time after which a running child counts as hung that the group has lost. A child that can do so dials again within a
/// few seconds.
const HUNG_AFTER: Duration = Duration::from_secs(20);

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
    status: watch::Receiver<ClusterStatus>,
    stop: CancellationToken,
    grace: Duration,
) {
    // The child has a process group of its own, so Ctrl-C in the terminal reaches only the head. The head then tells
    // its ranks to end.
    command.stdin(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut backoff = RESTART_BACKOFF;
    while !stop.is_cancelled() {
        let started_at = Instant::now();
        match command.spawn() {
            Ok(mut child) => {
                let pid = child.id();
                // `wait` would close the child's standard input, and the child would end. Hold the pipe open here.
                let _lifeline = child.stdin.take();
                tracing::info!(pid, "started the head's own ranks");
                let mut life = ChildLife { pid: pid.unwrap_or_default(), status: status.clone(), has_served: false };
                tokio::select! {
                    status = child.wait() => tracing::warn!(pid, status = describe_exit(status), "the head's own ranks ended"),
                    () = life.hangs() => {
                        tracing::error!(pid, "the head's own ranks hang and are lost to the group for 20 s: killing them");
                        child.kill().await.ok();
                    }
                    () = stop.cancelled() => return stop_child(child, grace).await,
                }
                if life.has_served {
                    backoff.reset();
                }
            }
            Err(error) => tracing::error!(%error, "cannot start the head's own ranks"),
        }
        if started_at.elapsed() > HEALTHY_AFTER {
            backoff.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_pause()) => (),
            () = stop.cancelled() => return,
        }
    }
}

/// Facts about one child, from the group's status.
struct ChildLife {
    pid: u32,
    status: watch::Receiver<ClusterStatus>,
    /// Set once the child's ranks have served.
    has_served: bool,
}

impl ChildLife {
    /// Waits until the group has lost the child for [`HUNG_AFTER`].
    async fn hangs(&mut self) {
        loop {
            self.await_loss(true).await;
            if tokio::time::timeout(HUNG_AFTER, self.await_loss(false)).await.is_err() {
                return;
            }
        }
    }

    /// Waits until the group has lost the child, or has it again. Notes if it serves meanwhile. Waits for ever once the
    /// group is gone.
    async fn await_loss(&mut self, is_lost: bool) {
        let Self { pid, status, has_served } = self;
        let reached = status.wait_for(|status| {
            let own = status.ranks.first().filter(|rank| rank.pid == *pid);
            *has_served |= own.is_some_and(|rank| rank.phase() == Phase::Serving);
            own.is_some_and(|rank| rank.phase() == Phase::Lost) == is_lost
        });
        if reached.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn describe_exit(status: std::io::Result<std::process::ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// Waits for the child to end, and kills it after `grace`. The head has told the child to drain by then.
async fn stop_child(mut child: Child, grace: Duration) {
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        tracing::warn!(pid = child.id(), "the head's own ranks did not end in time: killing them");
        child.kill().await.ok();
    }
}
