//! `lockstep up`: the plan of an `InferenceCluster` as processes of this machine.
//!
//! Invariants: no process outlives this one (each holds the far end of a pipe and ends when it closes); nothing is
//! waited for without a bound; the first Ctrl-C or SIGTERM ends the group in order, the second at once.

mod agent;
mod console;
mod group;
mod local;
mod member;
mod patience;
mod progress;
mod restarts;
mod watch;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use lockstep_proto::v1::{ClusterStatus, GetModelInfoRequest, GetStatusRequest};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch::Receiver;

use self::console::Console;
use self::group::Group;
use self::patience::Patience;
use self::progress::Progress;
use super::answer::{self, Question, message};
use super::endpoint::{Endpoint, EndpointError};
use super::sampling::Sampling;
use crate::plan::plan;
use crate::resource::load;

pub(super) use local::{settle, threads_per_rank};

/// What everything local binds to.
pub(super) const LOOPBACK: &str = "127.0.0.1";

/// How long the status after an answer may take to fetch.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two looks at whether the group is at rest.
const REST_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The InferenceCluster, a YAML file
    file: PathBuf,
    /// Ask this once the group is ready, stream the answer to standard output, and end
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// What the model is told before the prompt
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    system: Option<String>,
    /// The agent's program. Default: lockstep-agent beside this program, else on PATH
    #[arg(long, value_name = "PATH", env = lockstep_proto::names::env::AGENT)]
    agent: Option<PathBuf>,
    /// Address that the client ports bind to
    #[arg(long, value_name = "IP", default_value = LOOPBACK)]
    host: IpAddr,
    /// Port of the gRPC endpoint. Default: a free one
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    grpc_port: Option<u16>,
    /// Port of the HTTP endpoint. Default: a free one
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    http_port: Option<u16>,
    /// With --prompt: give up when the group got no nearer to being ready for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86400))]
    ready_timeout: u64,
    #[command(flatten)]
    sampling: Sampling,
}

/// What ends a group that works.
enum End {
    /// The prompt was answered.
    Answered,
    /// Ctrl-C or SIGTERM.
    Interrupted,
}

pub(super) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let mut cluster = load(&options.file)?;
    settle(&mut cluster, &options.file)?;
    local::check(&cluster.spec)?;
    let program = agent::find(options.agent.as_deref())?;
    agent::check(&program).await?;
    let mut stops = Stops::listen()?;
    let ports = local::ports(options.host, options.grpc_port, options.http_port)?;
    let plan = plan(&cluster, &local::addresses(options.host, ports, &cluster.spec));
    let group = plan.groups.first().context("the plan has no group")?;
    let console = Arc::new(Console::new());
    for said in local::greeting(&cluster, group, options.host, ports) {
        console.say(&said);
    }
    let mut group = Group::start(local::members(group, &program), &console);
    let endpoint = Endpoint::of(&local::reached(options.host), ports.grpc);
    let watch = watch::start(endpoint.clone());
    let outcome = tokio::select! {
        end = follow(&options, &endpoint, watch, &console) => end,
        gave_up = group.gave_up() => Err(gave_up.into()),
        () = stops.next() => Ok(End::Interrupted),
    };
    console.finish();
    console.release();
    console.say("ending the group");
    let in_order = tokio::select! {
        () = group.end() => true,
        () = stops.next() => false,
    };
    if !in_order {
        console.say("ending it at once");
        group.kill().await;
    }
    Ok(match outcome? {
        End::Interrupted if options.prompt.is_some() => ExitCode::from(super::INTERRUPTED),
        End::Interrupted | End::Answered => ExitCode::SUCCESS,
    })
}

/// Shows the group's progress, and asks the prompt where there is one. Without one it goes on for ever.
async fn follow(
    options: &Options,
    endpoint: &Endpoint,
    mut watch: Receiver<Option<ClusterStatus>>,
    console: &Console,
) -> anyhow::Result<End> {
    let mut progress = Progress::default();
    let mut patience = Patience::new(Duration::from_secs(options.ready_timeout));
    loop {
        let status = watch.borrow_and_update().clone();
        progress.show(status.as_ref(), console);
        if let Some(prompt) = &options.prompt {
            if status.as_ref().is_some_and(|status| status.ready) {
                console.finish();
                ask(options, prompt, endpoint, console).await?;
                return Ok(End::Answered);
            }
            if let Some(told) = patience.spent(status.as_ref()) {
                bail!(told);
            }
        }
        // The timeout lets patience look at the clock where nothing changes.
        let _ = tokio::time::timeout(patience::LOOK, watch.changed()).await;
    }
}

/// Asks, streams the answer to standard output, and tells the figures on standard error.
async fn ask(options: &Options, prompt: &str, endpoint: &Endpoint, console: &Console) -> anyhow::Result<()> {
    let mut client = endpoint.inference().await?;
    let info = client.get_model_info(GetModelInfoRequest::default()).await.map_err(EndpointError::from)?.into_inner();
    let question = if info.model.is_some_and(|model| model.has_chat_template) {
        let system = options.system.as_ref().map(|text| message("system", text));
        Question::Conversation(system.into_iter().chain([message("user", prompt)]).collect())
    } else {
        Question::Prompt(prompt.to_owned())
    };
    // Log lines would tear the answer apart where both go to one terminal.
    console.hold();
    let answer = answer::stream(&mut client, question, &options.sampling, super::print).await;
    super::print("\n")?;
    console.release();
    let answer = answer?;
    if let Ok(Ok(status)) = tokio::time::timeout(STATUS_TIMEOUT, at_rest(endpoint)).await {
        console.block(&super::status::text(&status));
    }
    console.say(&answer.figures.to_string());
    Ok(())
}

/// The group's status once nothing runs: the head may still be putting the answered request away.
async fn at_rest(endpoint: &Endpoint) -> Result<ClusterStatus, EndpointError> {
    let mut cluster = endpoint.cluster().await?;
    loop {
        let status = cluster.get_status(GetStatusRequest {}).await?.into_inner();
        if status.running == 0 {
            return Ok(status);
        }
        tokio::time::sleep(REST_PAUSE).await;
    }
}

/// Ctrl-C, SIGTERM and a closed terminal, as one.
struct Stops {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stops {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
