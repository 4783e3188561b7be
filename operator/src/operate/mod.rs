//! The operator as a program: `lockstep-operator run`, until a signal or the loss of its lease.
//!
//! Invariant: only one process at a time changes objects. A process that loses the lease ends at once, and Kubernetes starts
//! it again.

mod arguments;
mod controller;
mod election;
mod run;
mod server;

use std::process::ExitCode;

use clap::Parser as _;

pub use arguments::{OperatorCli, OperatorCommand, RunOptions};
pub use controller::Controller;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    match OperatorCli::parse().command {
        OperatorCommand::Crd => print_text(crate::resource::crd_yaml().map_err(Into::into)),
        OperatorCommand::Run(options) => {
            run::start_logs(&options);
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            match runtime {
                Ok(runtime) => exit_code(runtime.block_on(run::run(options))),
                Err(error) => exit_code(Err(error.into())),
            }
        }
    }
}

fn print_text(text: anyhow::Result<String>) -> ExitCode {
    use std::io::Write as _;
    match text.and_then(|text| Ok(std::io::stdout().lock().write_all(text.as_bytes())?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
