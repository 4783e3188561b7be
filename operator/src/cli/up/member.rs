//! Supervises one process of the group: starts it, passes its lines on, restarts it after it dies, and ends it on
//! request.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_proto::names::env;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;

use super::console::Console;
use super::restarts::{MISTAKE, Next, Restarts};

/// Time for which a process may take to end after SIGTERM. Its drain timeout is shorter.
pub(super) const END_DEADLINE: Duration = Duration::from_secs(8);
/// Time for which the pipes of a dead process are read. A child that it left behind may hold the pipes open.
const PIPE_DEADLINE: Duration = Duration::from_millis(500);
/// Largest number of bytes of a line that are passed on. Longer lines are cut.
const MAX_LINE: usize = 16 * 1024;

/// Variables of the contract that a process inherits if the plan does not set them. All other variables of the contract
/// are removed, so that the caller's shell cannot contradict the plan.
const INHERITED: &[&str] = &[
    env::LOG,
    env::LOG_FORMAT,
    env::ISA,
    env::GROUP_KEY_FILE,
    env::MAX_WAITING,
    env::DRAIN_TIMEOUT,
    env::TOOL_CALL_PARSER,
    env::REASONING_PARSER,
    env::STRICT_FIELDS,
    env::KV_EVENTS,
];

/// Program, arguments and environment of one process of the group.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Name of the process (`head`, `worker-0`, …), which is the prefix of its lines.
    pub name: String,
    /// Index in the group, from 0.
    pub index: usize,
    pub is_head: bool,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub variables: Vec<(String, String)>,
}

/// Stage of the group's shutdown. Each stage includes the stages before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    /// The group runs.
    Run,
    /// The head ends, and ends its sessions with the workers. No process is started again.
    Head,
    /// All processes end.
    All,
    /// All processes are killed.
    Kill,
}

/// A process that cannot be kept running.
#[derive(Debug, thiserror::Error)]
pub(super) enum GaveUp {
    #[error("cannot start {name} ({}): {source}", program.display())]
    Start { name: String, program: PathBuf, source: std::io::Error },
    #[error("{name} {how} and is not started again; see its last log lines")]
    Died { name: String, how: String, status: Option<i32> },
}

impl GaveUp {
    /// Returns the status of this program: that of a process whose configuration or model cannot work, else `None`.
    pub(super) fn exit_status(&self) -> Option<u8> {
        match self {
            Self::Died { status: Some(status), .. } if *status == MISTAKE => u8::try_from(*status).ok(),
            Self::Died { .. } | Self::Start { .. } => None,
        }
    }
}

/// Keeps `member` running until `stop` reaches the stage at which the member ends.
///
/// # Errors
/// Fails if the process cannot be started, or if it dies again and again.
pub(super) async fn keep(member: Member, mut stop: Receiver<Stop>, console: Arc<Console>) -> Result<(), GaveUp> {
    let mut restarts = Restarts::new();
    let ends_at = if member.is_head { Stop::Head } else { Stop::All };
    loop {
        let began = Instant::now();
        let mut child = start(&member)?;
        // `wait` would close the standard input of the child, so it is taken out first.
        let _lifeline = child.stdin.take();
        let mut lines = spawn_line_readers(&member, &mut child, &console);
        let died = tokio::select! {
            died = child.wait() => Some(died),
            () = wait_for_stop(&mut stop, ends_at) => None,
        };
        if died.is_none() {
            terminate(&mut child, &mut stop).await;
        }
        drain_pipes(&mut lines).await;
        let Some(died) = died.filter(|_| *stop.borrow() == Stop::Run) else { return Ok(()) };
        let how = describe_exit(died.as_ref().ok());
        let status = died.ok().and_then(|status| status.code());
        match restarts.decide(began.elapsed(), status) {
            Next::GiveUp => return Err(GaveUp::Died { name: member.name, how, status }),
            Next::Again(pause) => {
                console.print(&format!("{} {how}; starting it again in {} ms", member.name, pause.as_millis()));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = wait_for_stop(&mut stop, Stop::Head) => return Ok(()),
                }
            }
        }
    }
}

fn start(member: &Member) -> Result<Child, GaveUp> {
    let mut command = Command::new(&member.program);
    command.args(&member.arguments);
    for name in env::ALL.iter().filter(|name| !INHERITED.contains(name)) {
        command.env_remove(name);
    }
    command.envs(member.variables.iter().map(|(name, value)| (name, value)));
    // The process ends when its standard input closes, and the kernel closes it however this program dies. In a process
    // group of its own, the process gets no Ctrl-C from the terminal, and its children can be killed with it.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let failed = |source| GaveUp::Start { name: member.name.clone(), program: member.program.clone(), source };
    command.spawn().map_err(failed)
}

/// Passes on the lines of both outputs of a process.
fn spawn_line_readers(member: &Member, child: &mut Child, console: &Arc<Console>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(out) = child.stdout.take() {
        tasks.spawn(pass_lines_on(out, member.index, member.name.clone(), Arc::clone(console)));
    }
    if let Some(err) = child.stderr.take() {
        tasks.spawn(pass_lines_on(err, member.index, member.name.clone(), Arc::clone(console)));
    }
    tasks
}

/// Passes on each line until the pipe closes.
async fn pass_lines_on(pipe: impl AsyncRead + Unpin, index: usize, name: String, console: Arc<Console>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while let Ok(read) = pipe.fill_buf().await {
        if read.is_empty() {
            break;
        }
        let end = read.iter().position(|byte| *byte == b'\n');
        let part = &read[..end.unwrap_or(read.len())];
        line.extend_from_slice(&part[..part.len().min(MAX_LINE - line.len())]);
        let used = part.len() + usize::from(end.is_some());
        pipe.consume(used);
        if end.is_some() {
            console.log(index, &name, &String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    if !line.is_empty() {
        console.log(index, &name, &String::from_utf8_lossy(&line));
    }
}

/// Waits until the outputs of a dead process are read, for at most `PIPE_DEADLINE`.
async fn drain_pipes(lines: &mut JoinSet<()>) {
    let all = async { while lines.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(PIPE_DEADLINE, all).await;
}

/// Waits until the shutdown reaches `stage`.
async fn wait_for_stop(stop: &mut Receiver<Stop>, stage: Stop) {
    // An error means that the sender was dropped. The group ends then too.
    let _ = stop.wait_for(|current| *current >= stage).await;
}

/// Sends SIGTERM, waits for the deadline, and then sends SIGKILL to the process and its children.
async fn terminate(child: &mut Child, stop: &mut Receiver<Stop>) {
    let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) else { return };
    if *stop.borrow() < Stop::Kill {
        let _ = kill_process(pid, Signal::TERM);
        let ended = tokio::select! {
            ended = tokio::time::timeout(END_DEADLINE, child.wait()) => ended.is_ok(),
            () = wait_for_stop(stop, Stop::Kill) => false,
        };
        if ended {
            return;
        }
    }
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = child.wait().await;
}

/// Describes how a process ended.
fn describe_exit(status: Option<&ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    let Some(status) = status else { return "ended with an unknown status".into() };
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(9)) => "was killed (SIGKILL)".into(),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}
