//! `lockstep-agent`: reads the configuration, and runs a head or a node until a drain, a signal or an error. Or it prints
//! a list and ends.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use lockstep_agent::config::{self, Build, Config, ConfigError, Environment, Role};
use lockstep_agent::signals::Signals;
use lockstep_agent::unusable::UnusableModel;
use lockstep_agent::{head, list, node};
use lockstep_api::{TextError, raise_file_limit};
use lockstep_engine::{Accelerator, EngineError};
use lockstep_proto::names::MODEL_UNUSABLE;

/// Exit code for a configuration or a model that cannot work, as is usual for a wrong command line.
const EXIT_USAGE: u8 = 2;
/// Exit code of a process whose parent has ended.
const EXIT_ORPHANED: i32 = 130;

fn main() -> ExitCode {
    let config = match read_config() {
        Ok(config) => config,
        Err(error) => return report_config_error(&error),
    };
    raise_file_limit();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_fault_of_model(&error) => {
            tracing::error!("{MODEL_UNUSABLE}{error:#}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Returns true if the model's files are at fault, so that no process can load them.
fn is_fault_of_model(error: &anyhow::Error) -> bool {
    let by_engine = |error: &EngineError| error.is_fault_of_model() || matches!(error, EngineError::Truncated { .. });
    error.is::<TextError>() || error.is::<UnusableModel>() || error.downcast_ref().is_some_and(by_engine)
}

/// Returns [`EXIT_USAGE`] if the configuration does not fit the model, and 1 if another try may succeed.
fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<EngineError>() {
        Some(EngineError::Io { .. }) | None => 1,
        Some(_) => EXIT_USAGE,
    }
}

/// Reads the command line and the environment, and starts the log.
fn read_config() -> Result<Config, ConfigError> {
    let cli = config::parse(std::env::args_os())?;
    let config = config::resolve(&cli, &Environment::from_process(), &Build::current(Accelerator::count_visible()))?;
    config::logging::init(&config.log);
    Ok(config)
}

/// Prints help and version to standard output, and an error to standard error.
fn report_config_error(error: &ConfigError) -> ExitCode {
    if let ConfigError::Usage(clap) = error {
        clap.print().ok();
        return ExitCode::from(if clap.use_stderr() { EXIT_USAGE } else { 0 });
    }
    eprintln!("error: {error}");
    ExitCode::from(EXIT_USAGE)
}

/// Runs the head or the node on a runtime of its own.
fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        let signals = Signals::default();
        tokio::spawn(signals.clone().watch());
        match config.role {
            Role::Head(head) => {
                follow_parent(head.common.follow_parent)?;
                head::run(*head, &config.log, signals).await
            }
            Role::Node(node) => {
                follow_parent(node.common.follow_parent)?;
                node::run(*node, signals.stop).await.map(drop)
            }
            Role::List(config) => list::print_offers(*config).await,
        }
    });
    // A rank may be in a long operation. The rank holds nothing that outlives the process.
    runtime.shutdown_background();
    result
}

/// Ends this process when its standard input closes, if `follow` is set. The parent process holds the other end of the
/// standard input, so the parent has ended then, and no other process would stop this one.
fn follow_parent(follow: bool) -> anyhow::Result<()> {
    if !follow {
        return Ok(());
    }
    let watch_stdin = || {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        // The parent may have held standard error too. `eprintln` would then panic and keep this process alive.
        writeln!(std::io::stderr(), "lockstep-agent: the process that started this one has ended: ending too").ok();
        std::process::exit(EXIT_ORPHANED);
    };
    std::thread::Builder::new().name("parent".into()).spawn(watch_stdin).context("watch standard input").map(drop)
}
