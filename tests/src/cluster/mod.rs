//! Tests on a real Kubernetes: a test binary runs itself again inside a bubble of `tests/cluster`.
//!
//! Outside, [`main`] brings a bubble up (or takes the running one that [`RUNNING`] names) and starts the same binary in
//! it; inside, it runs the trials one after another. What a test starts ends with it, also when it is killed: the bubble
//! and the binary inside get SIGKILL when their parent dies.

mod bubble;
mod node;
mod tools;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

pub use bubble::{Bubble, Needs};
pub use node::{Node, fake_nodes};
pub use tools::{Namespace, apply, eventually, eventually_async, helm, kubectl};

/// Names the state folder of a running cluster that tests use instead of one of their own.
pub const RUNNING: &str = "LOCKSTEP_TEST_CLUSTER";
/// Set by `tests/cluster/in`: the process is inside.
const INSIDE: &str = "LOCKSTEP_TEST_INSIDE";

/// The `main` of a test binary with `harness = false`.
pub fn main(needs: Needs, trials: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let none_wanted = !trials.iter().any(|trial| is_wanted(&arguments, trial));
    if std::env::var_os(INSIDE).is_some() || arguments.list || none_wanted {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    if let Some(reason) = bubble::missing() {
        eprintln!("skipped: this machine cannot have the test cluster: {reason}");
        let ignored = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
        let conclusion = libtest_mimic::run(&arguments, ignored);
        // CI has to have one: what it skips, nobody else tests.
        let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        return if is_ci { ExitCode::FAILURE } else { conclusion.exit_code() };
    }
    match Bubble::for_test(&needs).and_then(|bubble| bubble.run_myself()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the test cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A test that runs inside. When it fails, what the cluster looked like is printed, and nodes that it left without power
/// or wire are restored for the next one.
pub fn trial(name: &str, run: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || {
        let outcome = catch_unwind(AssertUnwindSafe(run));
        if !matches!(outcome, Ok(Ok(()))) {
            tools::show();
            node::restore_all();
        }
        match outcome {
            Ok(result) => result.map_err(|error| format!("{error:#}").into()),
            Err(panic) => resume_unwind(panic),
        }
    })
}

/// As [`trial`], on a runtime of its own.
pub fn async_trial<F>(name: &str, run: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = anyhow::Result<()>>,
{
    trial(name, move || tokio::runtime::Runtime::new()?.block_on(run()))
}

/// Whether the command line asks for this trial, so that a cluster is brought up for nothing by no filter.
fn is_wanted(arguments: &Arguments, trial: &Trial) -> bool {
    let matches = |filter: &String| match arguments.exact {
        true => trial.name() == filter,
        false => trial.name().contains(filter.as_str()),
    };
    let is_run = arguments.ignored == trial.has_ignored_flag() || arguments.include_ignored;
    is_run && arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}
