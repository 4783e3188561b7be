//! Finds the agent's program and asks which wire version it speaks.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lockstep_proto::node::WIRE_VERSION;

use crate::plan::AGENT;

/// How long `lockstep-agent --version` may take; a machine under load is slow to start a program.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    #[error(
        "no {AGENT} beside this program ({}) nor on PATH; build it with `cargo build -p lockstep-agent`, or name it with \
         --agent or LOCKSTEP_AGENT", beside.display()
    )]
    NotFound { beside: PathBuf },
    #[error("there is no program at {}; correct --agent or LOCKSTEP_AGENT", .0.display())]
    NoProgram(PathBuf),
    #[error("cannot run {}: {source}", program.display())]
    Run { program: PathBuf, source: std::io::Error },
    #[error("{} --version did not end within {} s; is it {AGENT}?", .0.display(), VERSION_TIMEOUT.as_secs())]
    Slow(PathBuf),
    #[error("{} --version says {said:?} and names no wire version; is it {AGENT}, of this version?", program.display())]
    NoWire { program: PathBuf, said: String },
    #[error("{} speaks wire version {theirs}, this program {WIRE_VERSION}; use two of one build", program.display())]
    OtherWire { program: PathBuf, theirs: u32 },
}

/// The agent: as `given`, else beside this program, else on `PATH`.
pub(super) fn find(given: Option<&Path>) -> Result<PathBuf, AgentError> {
    if let Some(given) = given {
        let found = given.is_file().then(|| given.to_owned());
        return found.ok_or_else(|| AgentError::NoProgram(given.to_owned()));
    }
    let this = env::current_exe().unwrap_or_default();
    let beside = this.parent().unwrap_or(Path::new(".")).to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = std::iter::once(beside.clone()).chain(env::split_paths(&path)).map(|folder| folder.join(AGENT));
    places.find(|place| place.is_file()).ok_or(AgentError::NotFound { beside })
}

/// Makes sure that `program` speaks this program's wire version.
pub(super) async fn check(program: &Path) -> Result<(), AgentError> {
    let program = program.to_owned();
    let mut command = tokio::process::Command::new(&program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(VERSION_TIMEOUT, command.output()).await {
        Err(_) => return Err(AgentError::Slow(program)),
        Ok(output) => output.map_err(|source| AgentError::Run { program: program.clone(), source })?,
    };
    let said = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned();
    match wire(&said) {
        Some(WIRE_VERSION) => Ok(()),
        Some(theirs) => Err(AgentError::OtherWire { program, theirs }),
        None => Err(AgentError::NoWire { program, said }),
    }
}

/// The N of `wire N` in what `--version` says.
fn wire(said: &str) -> Option<u32> {
    let mut words = said.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.find(|word| *word == "wire")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{check, find, wire};

    #[test]
    fn wire_versions() {
        for (said, version) in [
            ("lockstep-agent 0.1.0 (wire 1)", Some(1)),
            ("lockstep-agent 0.1.0 (wire 12, cuda)", Some(12)),
            ("lockstep-agent 0.1.0", None),
            ("wire", None),
            ("", None),
        ] {
            assert_eq!(wire(said), version, "{said}");
        }
    }

    #[tokio::test]
    async fn programs_that_are_no_agent_of_this_version() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        assert!(find(Some(&missing)).unwrap_err().to_string().contains("correct --agent"));
        let program = folder.path().join("agent");
        // Written by another process: what this one had open for writing, a child that another test starts at the same
        // time might have open for a moment too, and such a program cannot be run.
        let script = "printf '#!/bin/sh\\ncat $(dirname $0)/says\\n' > $0; chmod +x $0";
        assert!(Command::new("sh").args(["-c", script]).arg(&program).status().unwrap().success());
        assert_eq!(find(Some(&program)).unwrap(), program);
        let right = format!("lockstep-agent 0.1.0 (wire {})", lockstep_proto::node::WIRE_VERSION);
        for (says, told) in [
            (right.as_str(), None),
            ("lockstep-agent 9.0.0 (wire 99)", Some("wire version 99")),
            ("hello", Some("names no wire version")),
        ] {
            std::fs::write(folder.path().join("says"), says).unwrap();
            let said = check(&program).await.err().map(|error| error.to_string());
            assert_eq!(said.is_some(), told.is_some(), "{said:?}");
            assert!(said.unwrap_or_default().contains(told.unwrap_or_default()), "{says}");
        }
    }
}
