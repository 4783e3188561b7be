//! The `lockstep` command line: flags as typed, and one module for each command.
//!
//! Standard output carries what was asked for (an answer, a plan, a table); everything else goes to standard error.

mod answer;
mod chat;
mod endpoint;
mod generate;
mod kubernetes;
mod logs;
mod plan;
mod sampling;
mod status;
mod up;
mod why;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use lockstep_proto::errors::with_causes;

/// Exit status after Ctrl-C, as shells have it: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Serve one model from many nodes.
///
/// An InferenceCluster YAML says which model and how many nodes; `lockstep up` runs it as processes of this machine, and
/// the operator runs the same plan in Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, max_term_width = 120, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run an InferenceCluster as processes of this machine
    Up(up::Options),
    /// Print every pod of an InferenceCluster: its ranks, its environment and its command
    Plan(plan::Options),
    /// Continue a prompt, streamed to standard output
    Generate(generate::Options),
    /// Talk with the model
    Chat(chat::Options),
    /// Show a cluster in Kubernetes, its groups and ranks; or every rank of a group at an endpoint
    Status(status::Options),
    /// Say the one reason why an InferenceCluster does not serve, and the remedy
    Why(why::Options),
    /// Print what all pods of an InferenceCluster say, in order of time
    Logs(logs::Options),
    /// Print the CRD of InferenceCluster, for `kubectl apply -f -`
    Crd,
    /// Print a script that completes this command in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let called = std::env::args_os().next();
    let command = as_called(called.as_deref().unwrap_or_default().as_ref());
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("start the runtime")),
    };
    let code = runtime.block_on(run(cli.command)).unwrap_or_else(|error| failed(&error));
    // A read of standard input cannot be taken back; nothing else is left running.
    runtime.shutdown_background();
    code
}

/// Whether this process was called as a plugin of kubectl.
pub(crate) fn is_plugin(called: &Path) -> bool {
    called.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.starts_with("kubectl"))
}

/// The command line, under the name that the user types.
fn as_called(called: &Path) -> clap::Command {
    if is_plugin(called) { Cli::command().bin_name("kubectl lockstep") } else { Cli::command() }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(options) => return up::run(options).await,
        Command::Plan(options) => plan::run(&options)?,
        Command::Generate(options) => return generate::run(options).await,
        Command::Chat(options) => return chat::run(options).await,
        Command::Status(options) => return status::run(options).await,
        Command::Why(options) => return why::run(options).await,
        Command::Logs(options) => return logs::run(options).await,
        Command::Crd => print(&crate::resource::crd_yaml()?)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lockstep", &mut script);
            print(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    use io::Write as _;
    // Nobody can be told where standard error is closed.
    let _ = writeln!(io::stderr(), "error: {}", with_causes(error.as_ref()));
    ExitCode::FAILURE
}

/// Writes to standard output; whoever reads it may have gone.
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
    fn a_plugin_of_kubectl_is_called_so() {
        let usage = |called: &str| super::as_called(called.as_ref()).render_usage().to_string();
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
    fn every_command_explains_itself() {
        for command in Cli::command().get_subcommands_mut() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }
}
