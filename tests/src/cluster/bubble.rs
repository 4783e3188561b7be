//! One test cluster, seen from outside.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// Parts that tests need of a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    nodes: u32,
    images: bool,
}

impl Needs {
    /// Asks for `nodes` real nodes, at most 9.
    pub fn nodes(nodes: u32) -> Self {
        assert!((1..=9).contains(&nodes), "a cluster has 1 to 9 real nodes, not {nodes}");
        Self { nodes, images: false }
    }

    /// Asks for the images `lockstep/operator:dev` and `lockstep/agent:dev` on all nodes.
    #[must_use]
    pub fn with_images(self) -> Self {
        Self { images: true, ..self }
    }
}

/// Ready cluster. If this process started it, the cluster ends when the value is dropped or the process dies.
pub struct Bubble {
    state: PathBuf,
    /// Process and folder of the cluster; `None`: another process owns the cluster, and this one leaves it running.
    own: Option<(Child, tempfile::TempDir)>,
}

impl Bubble {
    /// Joins the cluster that the environment names, or starts a new one.
    pub fn for_test(needs: &Needs) -> Result<Self> {
        match std::env::var_os(super::RUNNING) {
            Some(state) => Self::join(Path::new(&state), needs),
            None => Self::start(needs),
        }
    }

    /// Joins a running cluster.
    pub fn join(state: &Path, needs: &Needs) -> Result<Self> {
        let about = format!("use the cluster that {} names, {}", super::RUNNING, state.display());
        let nodes = fs::read_to_string(state.join("nodes")).with_context(|| about.clone())?;
        let nodes: u32 = nodes.trim().parse().with_context(|| about.clone())?;
        ensure!(nodes >= needs.nodes, "{about}: it has {nodes} nodes and {} are needed", needs.nodes);
        let bubble = Self { state: state.to_owned(), own: None };
        succeed(script("ready").arg(state))?;
        if needs.images {
            succeed(script("in").arg(state).arg("load").args(images()?))?;
        }
        Ok(bubble)
    }

    /// Starts a new cluster. The calling thread has to live as long as the cluster, which ends with the thread.
    pub fn start(needs: &Needs) -> Result<Self> {
        // The build comes first and shows its output, because it takes long on a new machine.
        succeed(script("build").stdout(Stdio::null()))?;
        let images = if needs.images { images()? } else { Vec::new() };
        // On a busy machine Kubernetes' programs may give up on each other at the start.
        Self::up(needs, &images).or_else(|error| {
            eprintln!("the test cluster: {error:#}; it is started once more");
            Self::up(needs, &images)
        })
    }

    fn up(needs: &Needs, images: &[String]) -> Result<Self> {
        // `up` removes folders here that a killed test left behind.
        let states = cache()?.join("states");
        fs::create_dir_all(&states).with_context(|| format!("make {}", states.display()))?;
        let folder = tempfile::Builder::new().prefix("test-").tempdir_in(&states);
        let folder = folder.context("make a folder for the cluster")?;
        let state = folder.path().to_owned();
        let mut up = following(script_path("up"));
        up.arg(&state).arg(needs.nodes.to_string()).args(images).stdin(Stdio::null());
        let child = up.spawn().context("run setpriv (Debian: util-linux)")?;
        let bubble = Self { state, own: Some((child, folder)) };
        succeed(script("ready").arg(&bubble.state))?;
        Ok(bubble)
    }

    /// Returns the folder of the cluster's logs, certificates and disks.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Makes a command that runs inside the cluster.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = following(script_path("in"));
        command.arg(&self.state).args(["setpriv", "--pdeathsig", "KILL"]).arg(program);
        command
    }

    /// Runs this program inside the cluster with the same arguments, and returns its exit status.
    pub(super) fn run_myself(&self) -> Result<ExitCode> {
        let program = std::env::current_exe().context("find this program's path")?;
        let mut command = self.command(program);
        let status = command.args(std::env::args_os().skip(1)).status().context("run this program in the cluster")?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
    }
}

impl Drop for Bubble {
    fn drop(&mut self) {
        if let Some((child, _folder)) = &mut self.own {
            child.kill().ok();
            child.wait().ok();
            script("down").arg(&self.state).status().ok();
        }
    }
}

/// Returns the reason why this machine cannot have a cluster; `None`: it can.
pub(super) fn missing() -> Option<String> {
    match script("can").output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Err(error) => Some(format!("run tests/cluster/can: {error}")),
    }
}

fn script_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster").join(name)
}

fn script(name: &str) -> Command {
    Command::new(script_path(name))
}

/// Makes a command that gets SIGKILL when the thread that starts it ends, for whatever reason.
fn following(program: PathBuf) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Builds the images with the programs beside this test. Returns the paths of their archives.
fn images() -> Result<Vec<String>> {
    let program = std::env::current_exe().context("find this program's path")?;
    let target = program.ancestors().nth(3).context("find the target folder")?;
    let output = script("images").env("CARGO_TARGET_DIR", target).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "tests/cluster/images failed, see above");
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Returns the cache folder, which outlives clones of the repository.
fn cache() -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => Path::new(&home).join(".cache"),
        (None, None) => bail!("neither HOME nor XDG_CACHE_HOME is set: there is no place for the cluster's files"),
    };
    Ok(base.join("lockstep/cluster"))
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {}", command.get_program().display()))?;
    ensure!(status.success(), "{} failed ({status}), see above", command.get_program().display());
    Ok(())
}
