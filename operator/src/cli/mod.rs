//! The `lockstep` command line. Each command has a module with its arguments and its work.
//!
//! Standard output carries only the result of a command (an answer, a plan, a table). All else goes to standard error.

mod access;
mod answer;
mod chat;
mod endpoint;
mod generate;
mod kubernetes;
mod logs;
mod plan;
mod running;
mod sampling;
mod status;
mod up;
mod why;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use lockstep_proto::errors::with_causes;

/// Exit status after Ctrl-C, as in shells: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Serve one model from many nodes.
///
/// An InferenceCluster manifest names the model and the number of nodes. `lockstep up` runs the cluster as processes on
/// this machine. The operator runs the same plan in Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, max_term_width = 120, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run an InferenceCluster as processes on this machine
    Up(up::UpArgs),
    /// Print the pods of an InferenceCluster with their ranks, environment and command
    Plan(plan::PlanArgs),
    /// Continue a prompt and stream the text to standard output
    Generate(generate::GenerateArgs),
    /// Chat with the model
    Chat(chat::ChatArgs),
    /// Show an InferenceCluster in Kubernetes, or the ranks of a group at an endpoint
    Status(status::StatusArgs),
    /// Explain why an InferenceCluster does not serve, and print the remedy
    Why(why::WhyArgs),
    /// Print the logs of all pods of an InferenceCluster in order of time
    Logs(logs::LogsArgs),
    /// Print the CRD of InferenceCluster, for `kubectl apply -f -`
    Crd,
    /// Print a completion script for a shell
    Completions {
        /// Shell to complete in
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let called = std::env::args_os().next();
    let command = command_for(called.as_deref().unwrap_or_default().as_ref());
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report_failure(&anyhow::Error::new(error).context("start the runtime")),
    };
    let code = runtime.block_on(run(cli.command)).unwrap_or_else(|error| report_failure(&error));
    // A read of standard input cannot be cancelled. No other task is still running.
    runtime.shutdown_background();
    code
}

/// Returns true if this process was called as a plugin of kubectl.
pub(crate) fn is_plugin(called: &Path) -> bool {
    called.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.starts_with("kubectl"))
}

/// Returns the command line under the name that the user types.
fn command_for(called: &Path) -> clap::Command {
    if is_plugin(called) { Cli::command().bin_name("kubectl lockstep") } else { Cli::command() }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => return up::run(args).await,
        Command::Plan(args) => plan::run(&args)?,
        Command::Generate(args) => return generate::run(args).await,
        Command::Chat(args) => return chat::run(args).await,
        Command::Status(args) => return status::run(args).await,
        Command::Why(args) => return why::run(args).await,
        Command::Logs(args) => return logs::run(args).await,
        Command::Crd => print(&crate::resource::crd_yaml()?)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lockstep", &mut script);
            print(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints an error and returns the exit status of a failure.
fn report_failure(error: &anyhow::Error) -> ExitCode {
    use io::Write as _;
    // If standard error is closed, there is no place for the message.
    let _ = writeln!(io::stderr(), "error: {}", with_causes(error.as_ref()));
    ExitCode::FAILURE
}

/// Writes to standard output. A reader that has closed the pipe is not an error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    use io::Write as _;
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn a_plugin_of_kubectl_shows_kubectl_in_its_usage() {
        let usage = |called: &str| super::command_for(called.as_ref()).render_usage().to_string();
        assert!(
            usage("/usr/bin/kubectl-lockstep").contains("kubectl lockstep"),
            "{}",
            usage("/usr/bin/kubectl-lockstep")
        );
        assert!(!usage("/usr/bin/lockstep").contains("kubectl"));
    }

    #[test]
    fn flags_do_not_clash() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_has_help() {
        for command in Cli::command().get_subcommands_mut() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }
}
