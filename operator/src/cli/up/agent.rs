//! Finds the agent's program and checks its wire version.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lockstep_proto::node::WIRE_VERSION;

use crate::plan::AGENT;

/// Time after which `lockstep-agent --version` is given up. A machine under load is slow to start a program.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    #[error(
        "there is no {AGENT} beside this program ({}) or on PATH; build it with `cargo build -p lockstep-agent`, or give its \
         path with --agent or LOCKSTEP_AGENT", beside.display()
    )]
    NotFound { beside: PathBuf },
    #[error("there is no program at {}; correct --agent or LOCKSTEP_AGENT", .0.display())]
    NoProgram(PathBuf),
    #[error("cannot run {}: {source}", program.display())]
    Run { program: PathBuf, source: std::io::Error },
    #[error("{} --version did not end within {} s; is it {AGENT}?", .0.display(), VERSION_TIMEOUT.as_secs())]
    Slow(PathBuf),
    #[error("{} --version printed {output:?}, which names no wire version; is it {AGENT} of this version?", program.display())]
    NoWire { program: PathBuf, output: String },
    #[error("{} has wire version {theirs}, but this program has {WIRE_VERSION}; use two programs of one build", program.display())]
    OtherWire { program: PathBuf, theirs: u32 },
}

/// Returns the path of the agent's program: the given path, else the program beside this program, else on `PATH`.
pub(super) fn find_program(given: Option<&Path>) -> Result<PathBuf, AgentError> {
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

/// Checks that `program` has this program's wire version.
pub(super) async fn check_wire_version(program: &Path) -> Result<(), AgentError> {
    let program = program.to_owned();
    let mut command = tokio::process::Command::new(&program);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(VERSION_TIMEOUT, command.output()).await {
        Err(_) => return Err(AgentError::Slow(program)),
        Ok(output) => output.map_err(|source| AgentError::Run { program: program.clone(), source })?,
    };
    let output = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned();
    match parse_wire_version(&output) {
        Some(WIRE_VERSION) => Ok(()),
        Some(theirs) => Err(AgentError::OtherWire { program, theirs }),
        None => Err(AgentError::NoWire { program, output }),
    }
}

/// Returns the N of `wire N` in the output of `--version`.
fn parse_wire_version(output: &str) -> Option<u32> {
    let mut words = output.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.find(|word| *word == "wire")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{check_wire_version, find_program, parse_wire_version};

    #[test]
    fn wire_versions_are_parsed() {
        for (output, version) in [
            ("lockstep-agent 0.1.0 (wire 1)", Some(1)),
            ("lockstep-agent 0.1.0 (wire 12, cuda)", Some(12)),
            ("lockstep-agent 0.1.0", None),
            ("wire", None),
            ("", None),
        ] {
            assert_eq!(parse_wire_version(output), version, "{output}");
        }
    }

    #[tokio::test]
    async fn programs_of_another_version_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        assert!(find_program(Some(&missing)).unwrap_err().to_string().contains("correct --agent"));
        let program = folder.path().join("agent");
        // Another process writes the program. If this process wrote it, a child that another test starts at the same
        // time might inherit the open file for a moment, and Linux runs no program that is open for writing.
        let script = "printf '#!/bin/sh\\ncat $(dirname $0)/says\\n' > $0; chmod +x $0";
        assert!(Command::new("sh").args(["-c", script]).arg(&program).status().unwrap().success());
        assert_eq!(find_program(Some(&program)).unwrap(), program);
        let right = format!("lockstep-agent 0.1.0 (wire {})", lockstep_proto::node::WIRE_VERSION);
        for (output, expected) in [
            (right.as_str(), None),
            ("lockstep-agent 9.0.0 (wire 99)", Some("wire version 99")),
            ("hello", Some("names no wire version")),
        ] {
            std::fs::write(folder.path().join("says"), output).unwrap();
            let message = check_wire_version(&program).await.err().map(|error| error.to_string());
            assert_eq!(message.is_some(), expected.is_some(), "{message:?}");
            assert!(message.unwrap_or_default().contains(expected.unwrap_or_default()), "{output}");
        }
    }
}
