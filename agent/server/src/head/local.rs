//! The head's own ranks: a child process of the same binary, started again when it dies.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lockstep_proto::backoff::Backoff;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::config::{HeadConfig, LogConfig};

/// Pauses between the child's death and its next start.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
/// A child that lived this long counts as healthy: the next death is the first again.
const HEALTHY: Duration = Duration::from_secs(60);

/// The command that starts the head's own node.
///
/// # Errors
/// Where this program cannot find itself.
pub fn command(config: &HeadConfig, log: &LogConfig, control: SocketAddr, cluster_id: &str) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("find this program's own file, to start the head's ranks")?;
    let arguments = config.own_node(control, cluster_id).to_arguments(log);
    let arguments = arguments.context("the head's own control address is not known")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// Keeps the child process running until `stop`, then gives it `grace` to end by itself.
///
/// The child follows this process: it ends when its standard input does, so that a killed head leaves no orphan.
pub async fn keep_running(mut command: Command, stop: CancellationToken, grace: Duration) {
    // A group of its own: Ctrl-C in the terminal is for the head, which tells its ranks what follows from it.
    command.stdin(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut pauses = PAUSES;
    while !stop.is_cancelled() {
        let began = Instant::now();
        match command.spawn() {
            Ok(mut child) => {
                let pid = child.id();
                // Held open here: waiting for a child closes the pipe that it still has.
                let _lifeline = child.stdin.take();
                tracing::info!(pid, "started the head's own ranks");
                tokio::select! {
                    status = child.wait() => tracing::warn!(pid, status = describe(status), "the head's own ranks ended"),
                    () = stop.cancelled() => return end(child, grace).await,
                }
            }
            Err(error) => tracing::error!(%error, "cannot start the head's own ranks"),
        }
        if began.elapsed() > HEALTHY {
            pauses.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(pauses.next_pause()) => (),
            () = stop.cancelled() => return,
        }
    }
}

fn describe(status: std::io::Result<std::process::ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// The head has sent Drain already; a child that does not heed it is killed.
async fn end(mut child: Child, grace: Duration) {
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        tracing::warn!(pid = child.id(), "the head's own ranks did not end in time: killing them");
        child.kill().await.ok();
    }
}
