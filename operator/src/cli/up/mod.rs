//! `lockstep up`: runs the plan of an `InferenceCluster` as processes on this machine.
//!
//! Invariants:
//! - No agent process outlives this process. Each holds the read end of a pipe, and ends when the pipe closes.
//! - Every wait has a bound.
//! - The first Ctrl-C or SIGTERM ends the group in order. The second kills it at once.

mod agent;
mod console;
mod group;
mod local;
mod member;
mod progress;
mod progress_timeout;
mod restarts;
mod watch;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use kube::ResourceExt as _;
use lockstep_proto::v1::{ClusterStatus, GetModelInfoRequest, GetStatusRequest};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch::Receiver;

use self::console::Console;
use self::group::LocalGroup;
use self::member::GaveUp;
use self::progress::Progress;
use self::progress_timeout::ProgressTimeout;
use super::answer::{self, Question, message};
use super::endpoint::{Endpoint, EndpointError};
use super::running::{Registration, RunningGroup};
use super::sampling::SamplingArgs;
use crate::plan::plan;
use crate::resource::load;

pub(super) use local::{resolve_source, threads_per_rank};

/// Address that the ports of a local group bind to by default.
pub(super) const LOOPBACK: &str = "127.0.0.1";

/// Time after which a fetch of the status after an answer is given up.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two checks for an idle group.
const IDLE_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(super) struct UpArgs {
    /// YAML file with an InferenceCluster
    file: PathBuf,
    /// Prompt to send when the group is ready. The answer goes to standard output, and then the group ends
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// System message before the prompt
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    system: Option<String>,
    /// Path to the agent's program. Default: lockstep-agent beside this program, else on PATH
    #[arg(long, value_name = "PATH", env = lockstep_proto::names::env::AGENT)]
    agent: Option<PathBuf>,
    /// IP address that the client ports bind to
    #[arg(long, value_name = "IP", default_value = LOOPBACK)]
    host: IpAddr,
    /// Port of the gRPC endpoint. Default: a free port
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    grpc_port: Option<u16>,
    /// Port of the HTTP endpoint. Default: a free port
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    http_port: Option<u16>,
    /// With --prompt, number of seconds without progress after which the wait for a ready group is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86400))]
    ready_timeout: u64,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Reason for which a working group ends.
enum EndReason {
    /// The prompt was answered.
    Answered,
    /// The user sent Ctrl-C, SIGTERM or SIGHUP.
    Interrupted,
}

pub(super) async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    let mut cluster = load(&args.file)?;
    resolve_source(&mut cluster, &args.file)?;
    local::check(&cluster.spec)?;
    let program = agent::find_program(args.agent.as_deref())?;
    agent::check_wire_version(&program).await?;
    let mut stops = StopSignals::listen()?;
    let ports = local::take_ports(args.host, args.grpc_port, args.http_port)?;
    let plan = plan(&cluster, &local::addresses(args.host, ports, &cluster.spec));
    let group = plan.groups.first().context("the plan has no group")?;
    let console = Arc::new(Console::new());
    for line in local::describe_group(&cluster, group, args.host, ports) {
        console.print(&line);
    }
    let mut group = LocalGroup::start(local::members(group, &program), &console);
    let endpoint = Endpoint::new(local::client_address(args.host), ports.grpc);
    let running = RunningGroup { name: cluster.name_any(), endpoint: endpoint.clone() };
    let registration = Registration::new(&running);
    if let Err(error) = &registration {
        console.print(&format!("other commands do not find this group by themselves ({error}): give them --endpoint"));
    }
    let watch = watch::follow_group(endpoint.clone());
    let outcome = tokio::select! {
        reason = follow(&args, &endpoint, watch, &console) => reason,
        gave_up = group.wait_for_failure() => Err(gave_up.into()),
        () = stops.next() => Ok(EndReason::Interrupted),
    };
    console.clear_bars();
    console.release();
    console.print("ending the group");
    let in_order = tokio::select! {
        () = group.shut_down() => true,
        () = stops.next() => false,
    };
    if !in_order {
        console.print("killing the group");
        group.kill().await;
    }
    let reason = match outcome {
        Ok(reason) => reason,
        Err(error) => {
            let status = error.downcast_ref::<GaveUp>().and_then(GaveUp::exit_status);
            let Some(status) = status else { return Err(error) };
            super::report_failure(&error);
            return Ok(ExitCode::from(status));
        }
    };
    Ok(match reason {
        EndReason::Interrupted if args.prompt.is_some() => ExitCode::from(super::INTERRUPTED),
        EndReason::Interrupted | EndReason::Answered => ExitCode::SUCCESS,
    })
}

/// Shows the group's progress. If there is a prompt, sends it to the ready group and returns after the answer. Without
/// a prompt, never returns.
async fn follow(
    args: &UpArgs,
    endpoint: &Endpoint,
    mut watch: Receiver<Option<ClusterStatus>>,
    console: &Console,
) -> anyhow::Result<EndReason> {
    let mut progress = Progress::default();
    let mut timeout = ProgressTimeout::new(Duration::from_secs(args.ready_timeout));
    loop {
        let status = watch.borrow_and_update().clone();
        progress.show(status.as_ref(), console);
        if let Some(prompt) = &args.prompt {
            if status.as_ref().is_some_and(|status| status.ready) {
                console.clear_bars();
                answer_prompt(args, prompt, endpoint, console).await?;
                return Ok(EndReason::Answered);
            }
            if let Some(message) = timeout.check(status.as_ref()) {
                bail!(message);
            }
        }
        // The timeout is also checked while nothing changes.
        let _ = tokio::time::timeout(progress_timeout::CHECK_INTERVAL, watch.changed()).await;
    }
}

/// Sends the prompt, streams the answer to standard output, and prints the figures to standard error.
async fn answer_prompt(args: &UpArgs, prompt: &str, endpoint: &Endpoint, console: &Console) -> anyhow::Result<()> {
    let mut client = endpoint.inference().await?;
    let info = client.get_model_info(GetModelInfoRequest::default()).await.map_err(EndpointError::from)?.into_inner();
    let question = if info.model.is_some_and(|model| model.has_chat_template) {
        let system = args.system.as_ref().map(|text| message("system", text));
        Question::Conversation(system.into_iter().chain([message("user", prompt)]).collect())
    } else {
        Question::Prompt(prompt.to_owned())
    };
    // Log lines on the same terminal would interrupt the answer.
    console.hold();
    let answer = answer::stream_answer(&mut client, question, &args.sampling, super::print).await;
    super::print("\n")?;
    console.release();
    let answer = answer?;
    if let Ok(Ok(status)) = tokio::time::timeout(STATUS_TIMEOUT, wait_until_idle(endpoint)).await {
        console.print_block(&super::status::format_status(&status));
    }
    console.print(&answer.figures.to_string());
    Ok(())
}

/// Waits until the group runs no request, and returns its status. The head may still hold the answered request for a
/// moment.
async fn wait_until_idle(endpoint: &Endpoint) -> Result<ClusterStatus, EndpointError> {
    let mut cluster = endpoint.cluster().await?;
    loop {
        let status = cluster.get_status(GetStatusRequest {}).await?.into_inner();
        if status.running == 0 {
            return Ok(status);
        }
        tokio::time::sleep(IDLE_PAUSE).await;
    }
}

/// Signals that end `lockstep up`: Ctrl-C, SIGTERM and a closed terminal.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the next of these signals.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
