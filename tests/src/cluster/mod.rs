//! Tests on a real Kubernetes: a test binary runs itself again inside a bubble of `tests/cluster`.
//!
//! Outside, [`main`] brings a bubble up (or joins the running one that [`RUNNING`] names) and starts the same binary in
//! it. Inside, [`main`] runs the trials one after another. Everything that a test starts ends with the test, also if
//! the test is killed: the bubble and the binary inside get SIGKILL when their parent dies.

mod bubble;
mod node;
mod tools;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

pub use bubble::{Bubble, Needs};
pub use node::{Node, fake_nodes};
pub use tools::{Namespace, apply, eventually, eventually_async, helm, kubectl};

/// Variable that names the state folder of a running cluster, which tests then use instead of a new one.
pub const RUNNING: &str = "LOCKSTEP_TEST_CLUSTER";
/// Variable that `tests/cluster/in` sets for processes inside the cluster.
const INSIDE: &str = "LOCKSTEP_TEST_INSIDE";

/// Runs as the `main` of a test binary with `harness = false`.
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
        // CI must have a cluster, because no other machine runs the tests that CI skips.
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

/// Makes a test that runs inside the cluster. If the test fails, the state of the cluster is printed, and nodes that
/// the test left without power or network are restored for the next test.
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

/// Makes a test like [`trial`], on a runtime of its own.
pub fn async_trial<F>(name: &str, run: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = anyhow::Result<()>>,
{
    trial(name, move || tokio::runtime::Runtime::new()?.block_on(run()))
}

/// Returns true if the command line selects this trial. No cluster starts if it selects none.
fn is_wanted(arguments: &Arguments, trial: &Trial) -> bool {
    let matches = |filter: &String| match arguments.exact {
        true => trial.name() == filter,
        false => trial.name().contains(filter.as_str()),
    };
    let is_run = arguments.ignored == trial.has_ignored_flag() || arguments.include_ignored;
    is_run && arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}
