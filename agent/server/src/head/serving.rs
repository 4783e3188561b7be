//! The running head: the driver, the control port, the client APIs, the foreground task and the head's own ranks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use lockstep_api::{
    Api, BlockFeed, ClientAccess, EngineFacts, Inference, Liveness, Metrics, Text, serve_grpc, serve_http,
};
use lockstep_group::head::{Driver, DriverConfig, GroupConfig};
use lockstep_proto::v1::ModelInfo;
use lockstep_schedule::Scheduler;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::control::{self, ControlPort, ControlService};
use super::driver::DriverTask;
use super::local;
use super::memory;
use super::ports::Ports;
use crate::auth::GroupKey;
use crate::config::{BLOCK_SIZE, Foreground, HeadConfig};
use crate::control_runtime::ControlRuntime;
use crate::signals::Signals;
use crate::tls::Tls;
use crate::{bench, chat};

/// Most commands, and most node events, that may wait for the driver.
const BACKLOG: usize = 1024;
/// Time after a drain within which the client connections must end. The head's own ranks have the same time.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Threads of the control streams and the driver. The driver makes a plan on one, while the other sends the plan before.
const CONTROL_THREADS: usize = 2;

/// Tasks that serve the head's ports, and the foreground task. If one of them ends, the head ends.
type Servers = JoinSet<anyhow::Result<()>>;

/// Parts of the head that [`super::run`] prepares before it starts anything.
pub(super) struct HeadParts {
    pub key: Option<GroupKey>,
    pub tls: Option<Arc<Tls>>,
    pub cluster_id: String,
    pub text: Text,
    pub model: ModelInfo,
    pub engine: EngineFacts,
    pub group: GroupConfig,
    pub scheduler: Scheduler,
    pub ports: Ports,
    /// Conditions on which the client ports serve.
    pub access: ClientAccess,
    /// Command that starts the head's own ranks. `None` if another process starts them.
    pub own_ranks: Option<tokio::process::Command>,
}

/// Serves until the driver has drained or a server fails.
///
/// # Errors
/// Returns the first error of a server, or the error of the foreground task.
pub(super) async fn serve(config: HeadConfig, parts: HeadParts, signals: Signals) -> anyhow::Result<()> {
    let (commands, command_inbox) = mpsc::channel(BACKLOG);
    let (node_events, nodes) = mpsc::channel(BACKLOG);
    let driver_config = DriverConfig {
        group: parts.group,
        model: parts.model.clone(),
        recovery_timeout: config.serving.recovery_timeout,
        drain_timeout: config.serving.drain_timeout,
        has_successor: config.foreground.is_none(),
        unix_micros: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64),
    };
    let driver = Driver::new(driver_config, parts.scheduler, Instant::now());
    let (status, status_watch) = watch::channel(driver.status().clone());
    let metrics = Metrics::for_model(&parts.model.name, BLOCK_SIZE);
    let alive = Liveness::default();
    let block_feed = config.serving.kv_events.then(BlockFeed::default);
    let driver = DriverTask {
        driver,
        commands: command_inbox,
        nodes,
        status,
        metrics: metrics.clone(),
        block_feed: block_feed.clone(),
        alive: alive.clone(),
        stop: signals.stop.clone(),
        streams: HashMap::new(),
        answers: Answers::default(),
        drain_answer: None,
    };
    let control = ControlPort {
        listener: parts.ports.control,
        tls: parts.tls,
        service: ControlService::server(parts.cluster_id, parts.key, node_events),
        commands: commands.clone(),
        status: status_watch.clone(),
    };
    let inference = Inference::new(commands, status_watch.clone(), alive);
    let api = Api::new(inference.clone(), parts.model, parts.text, metrics)
        .with_names(config.model.other_names)
        .with_engine(parts.engine)
        .with_access(parts.access)
        .with_block_feed(block_feed)
        .with_strict_fields(config.serving.strict_fields);
    let shutdown = CancellationToken::new();
    let mut servers = Servers::new();
    let control_runtime = ControlRuntime::start(CONTROL_THREADS)?;
    servers.spawn_on(control::serve_control(control, shutdown.clone()), control_runtime.handle());
    servers.spawn(memory::give_back_after_bursts(api.clone(), shutdown.clone()));
    spawn_client_servers(&mut servers, (parts.ports.grpc, parts.ports.http), &api, &shutdown);
    if let Some(foreground) = config.foreground {
        let stop = signals.stop.clone();
        let task = match foreground {
            Foreground::Chat(config) => chat::run(api, config, signals).boxed(),
            Foreground::Bench(config) => bench::run(inference, config).boxed(),
        };
        servers.spawn(run_foreground(task, stop, shutdown.clone()));
    }
    let keep_running = |command| local::keep_running(command, status_watch, shutdown.clone(), END_TIMEOUT);
    let own_ranks = parts.own_ranks.map(|command| tokio::spawn(keep_running(command)));
    let driver = control_runtime.handle().spawn(driver.run());
    let outcome = tokio::select! {
        driver = driver => driver.context("the head's driver ended").and_then(|ended| Ok(ended?)),
        Some(server) = servers.join_next() => server.context("a server ended").and_then(|ended| ended),
    };
    shutdown.cancel();
    let late_outcome = wait_for_servers(servers, own_ranks).await;
    outcome.and(late_outcome)
}

/// Starts the servers of the client APIs that have a port.
fn spawn_client_servers(
    servers: &mut Servers,
    (grpc, http): (Option<TcpListener>, Option<TcpListener>),
    api: &Api,
    shutdown: &CancellationToken,
) {
    if let Some(listener) = grpc {
        let serving = serve_grpc(listener, api.clone(), shutdown.clone());
        servers.spawn(async { serving.await.context("serve gRPC") });
    }
    if let Some(listener) = http {
        let serving = serve_http(listener, api.clone(), shutdown.clone());
        servers.spawn(async {
            serving.await;
            Ok(())
        });
    }
}

/// Runs the foreground task, tells the head to drain when the task ends, and returns after the drain.
async fn run_foreground(
    task: BoxFuture<'static, anyhow::Result<()>>,
    stop: CancellationToken,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let ended = tokio::select! {
        ended = task => ended,
        () = shutdown.cancelled() => Ok(()),
    };
    stop.cancel();
    // If this task returned now, the head would end without a drain. So wait until the drain is over.
    shutdown.cancelled().await;
    ended
}

/// Waits until the servers and the head's own ranks have ended, for twice [`END_TIMEOUT`] at most. Returns the last
/// error.
async fn wait_for_servers(mut servers: Servers, own_ranks: Option<JoinHandle<()>>) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    let all_ended = async {
        while let Some(ended) = servers.join_next().await {
            if let Ok(Err(error)) = ended {
                outcome = Err(error);
            }
        }
        if let Some(own_ranks) = own_ranks {
            own_ranks.await.ok();
        }
    };
    if tokio::time::timeout(END_TIMEOUT + END_TIMEOUT, all_ended).await.is_err() {
        tracing::warn!("client connections did not end in time: closing them");
    }
    outcome
}
