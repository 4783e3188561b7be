//! `lockstep-agent`: arguments and environment → configuration → head or node, until a signal.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use lockstep_agent::config::{self, Build, Config, ConfigError, Environment, Role};
use lockstep_agent::signals::Signals;
use lockstep_agent::{head, node};
use lockstep_engine::Accelerator;

/// Exit code for a configuration that cannot work, as of command lines elsewhere.
const EXIT_USAGE: u8 = 2;
/// Exit code of a process whose parent is gone.
const EXIT_ORPHANED: i32 = 130;

fn main() -> ExitCode {
    let config = match configure() {
        Ok(config) => config,
        Err(error) => return report(&error),
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn configure() -> Result<Config, ConfigError> {
    let cli = config::parse(std::env::args_os())?;
    let config = config::resolve(&cli, &Environment::of_process(), &Build::this(Accelerator::visible()))?;
    config::logging::init(&config.log);
    Ok(config)
}

/// Help and version go to standard output, mistakes to standard error.
fn report(error: &ConfigError) -> ExitCode {
    if let ConfigError::Usage(clap) = error {
        clap.print().ok();
        return ExitCode::from(if clap.use_stderr() { EXIT_USAGE } else { 0 });
    }
    eprintln!("error: {error}");
    ExitCode::from(EXIT_USAGE)
}

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
        }
    });
    // Ranks may sit in a long operation; they hold nothing that outlives the process.
    runtime.shutdown_background();
    result
}

/// Whoever started this process holds the other end of its standard input; when that closes, nobody is left who would
/// stop it, so it ends at once.
fn follow_parent(follow: bool) -> anyhow::Result<()> {
    if !follow {
        return Ok(());
    }
    let watch = || {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        // Whoever is gone may have held standard error too: a macro that panics there would keep this process alive.
        writeln!(std::io::stderr(), "lockstep-agent: whoever started this process is gone: ending").ok();
        std::process::exit(EXIT_ORPHANED);
    };
    std::thread::Builder::new().name("parent".into()).spawn(watch).context("watch standard input").map(drop)
}
