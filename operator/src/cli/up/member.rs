//! One process of the group: started, its lines passed on, started again when it dies, ended when told.

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
use super::restarts::{Next, Restarts};

/// How long a process may take to end after SIGTERM; its own drain is told to be shorter.
pub(super) const END_DEADLINE: Duration = Duration::from_secs(8);
/// How long what a process left in its pipes may take to read: a process that it left behind may hold them open.
const REST_DEADLINE: Duration = Duration::from_millis(500);
/// Longest line that is passed on whole, in bytes; longer ones are cut here.
const MAX_LINE: usize = 16 * 1024;

/// Variables of the contract that processes take from this one's environment where the plan does not say them. All
/// others are taken away, lest a shell's leftovers contradict the plan.
const PASSED: &[&str] =
    &[env::LOG, env::LOG_FORMAT, env::ISA, env::GROUP_KEY_FILE, env::MAX_WAITING, env::DRAIN_TIMEOUT];

/// What is run, and as whom.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// `head`, `worker-0`, …: the prefix of its lines.
    pub name: String,
    /// Place in the group, from 0.
    pub index: usize,
    pub is_head: bool,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub variables: Vec<(String, String)>,
}

/// How far the group was told to end. Each step includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    /// Not at all.
    Run,
    /// The head ends, and takes its leave of the workers; nothing is started again.
    Head,
    /// All end.
    All,
    /// All are killed.
    Kill,
}

/// A process that cannot be kept running.
#[derive(Debug, thiserror::Error)]
pub(super) enum GaveUp {
    #[error("cannot start {name} ({}): {source}", program.display())]
    Start { name: String, program: PathBuf, source: std::io::Error },
    #[error("{name} {how} and is not started again; its last lines say why")]
    Died { name: String, how: String },
}

/// Keeps `member` running until `stop` says otherwise.
///
/// # Errors
/// It cannot be started, or dies again and again.
pub(super) async fn keep(member: Member, mut stop: Receiver<Stop>, console: Arc<Console>) -> Result<(), GaveUp> {
    let mut restarts = Restarts::new();
    let ends_at = if member.is_head { Stop::Head } else { Stop::All };
    loop {
        let began = Instant::now();
        let mut child = start(&member)?;
        // Taken out, because waiting for a child closes its standard input first.
        let _lifeline = child.stdin.take();
        let mut lines = pass_lines_on(&member, &mut child, &console);
        let died = tokio::select! {
            died = child.wait() => Some(died),
            () = told(&mut stop, ends_at) => None,
        };
        if died.is_none() {
            end(&mut child, &mut stop).await;
        }
        rest(&mut lines).await;
        let Some(died) = died.filter(|_| *stop.borrow() == Stop::Run) else { return Ok(()) };
        let how = how(died.as_ref().ok());
        match restarts.decide(began.elapsed(), died.ok().and_then(|status| status.code())) {
            Next::GiveUp => return Err(GaveUp::Died { name: member.name, how }),
            Next::Again(pause) => {
                console.say(&format!("{} {how}; starting it again in {} ms", member.name, pause.as_millis()));
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = told(&mut stop, Stop::Head) => return Ok(()),
                }
            }
        }
    }
}

fn start(member: &Member) -> Result<Child, GaveUp> {
    let mut command = Command::new(&member.program);
    command.args(&member.arguments);
    for name in env::ALL.iter().filter(|name| !PASSED.contains(name)) {
        command.env_remove(name);
    }
    command.envs(member.variables.iter().map(|(name, value)| (name, value)));
    // The process ends when this end of its standard input closes, however this program dies. A process group of its
    // own keeps the terminal's Ctrl-C from it, and lets its children be killed with it.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    let failed = |source| GaveUp::Start { name: member.name.clone(), program: member.program.clone(), source };
    command.spawn().map_err(failed)
}

fn pass_lines_on(member: &Member, child: &mut Child, console: &Arc<Console>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(out) = child.stdout.take() {
        tasks.spawn(pass_on(out, member.index, member.name.clone(), Arc::clone(console)));
    }
    if let Some(err) = child.stderr.take() {
        tasks.spawn(pass_on(err, member.index, member.name.clone(), Arc::clone(console)));
    }
    tasks
}

/// Passes each line on until the pipe closes.
async fn pass_on(pipe: impl AsyncRead + Unpin, index: usize, name: String, console: Arc<Console>) {
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

async fn rest(lines: &mut JoinSet<()>) {
    let all = async { while lines.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(REST_DEADLINE, all).await;
}

/// Waits until the group is told to end as far as `step`.
async fn told(stop: &mut Receiver<Stop>, step: Stop) {
    // An error says that whoever tells has gone: the group ends then too.
    let _ = stop.wait_for(|told| *told >= step).await;
}

/// SIGTERM, a deadline, SIGKILL to it and its children.
async fn end(child: &mut Child, stop: &mut Receiver<Stop>) {
    let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) else { return };
    if *stop.borrow() < Stop::Kill {
        let _ = kill_process(pid, Signal::TERM);
        let ended = tokio::select! {
            ended = tokio::time::timeout(END_DEADLINE, child.wait()) => ended.is_ok(),
            () = told(stop, Stop::Kill) => false,
        };
        if ended {
            return;
        }
    }
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = child.wait().await;
}

fn how(status: Option<&ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    let Some(status) = status else { return "was lost".into() };
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(9)) => "was killed (SIGKILL)".into(),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}
