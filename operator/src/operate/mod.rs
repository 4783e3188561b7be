//! The operator as a program: `lockstep-operator run`, until a signal or the loss of its lease.
//!
//! Invariant: one process at a time changes anything. Whoever loses the lease ends at once and is started again.

mod arguments;
mod election;
mod run;
mod server;

use std::process::ExitCode;

use clap::Parser as _;

pub use arguments::{Cli, Command, RunOptions};

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Crd => printed(crate::resource::crd_yaml().map_err(Into::into)),
        Command::Run(options) => {
            run::logs(&options);
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            match runtime {
                Ok(runtime) => ended(runtime.block_on(run::run(options))),
                Err(error) => ended(Err(error.into())),
            }
        }
    }
}

fn printed(text: anyhow::Result<String>) -> ExitCode {
    use std::io::Write as _;
    match text.and_then(|text| Ok(std::io::stdout().lock().write_all(text.as_bytes())?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
