//! Namespaces of this process for networks, mounts and processes. The kernel removes them, and all that was made in them,
//! when the process ends, in whatever way.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Variable that is set in the process that has namespaces of its own.
const INSIDE: &str = "LOCKSTEP_FAULTS_INSIDE";

/// Arguments of `unshare` for namespaces that end with their first process.
const UNSHARE: [&str; 8] =
    ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"];

/// Returns true if this process may have namespaces of its own.
pub fn are_allowed() -> bool {
    std::env::var_os(INSIDE).is_some() || run(&format!("unshare {} true", UNSHARE.join(" "))).is_ok()
}

/// Runs this program again with namespaces of its own for networks, mounts and processes, unless it has them.
///
/// # Errors
/// Fails if it cannot have them. Returns only then, or inside.
pub fn enter() -> Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        let program = std::env::current_exe().context("find this program's path")?;
        let mut unshare = Command::new("unshare");
        unshare.args(UNSHARE);
        unshare.arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
        return Err(unshare.exec()).context("run unshare (Debian: util-linux)");
    }
    run("mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up")
}

/// Runs a line of shell.
///
/// # Errors
/// Fails with what the line says, if it fails.
pub fn run(line: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", line]).output().with_context(|| format!("run `{line}`"))?;
    ensure!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
