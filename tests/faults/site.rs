//! Group under supervision: dead processes are started again, as the kubelet would.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lockstep_tests::group::{Group, Spec, Way};
use lockstep_tests::process::children;
use rustix::process::{Pid, Signal, kill_process};

use crate::around::Around;
use crate::plan::{Setting, Shape};
use crate::witness::Witness;

/// Pause between the death of a process and the start of the next.
const RESTART_PAUSE: Duration = Duration::from_millis(50);
/// Pause between two looks at the processes.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Running group and what surrounds it.
pub struct Site {
    /// Ends before its surroundings do.
    pub group: Group,
    pub around: Around,
    pub witness: Witness,
    /// Ends of processes to which no fault was done, since the last [`Site::take_ended`].
    ended: Vec<String>,
    /// Processes that a fault killed or told to stop.
    condemned: HashSet<u32>,
    /// Node whose processes a fault kills again and again.
    pub doomed: Option<usize>,
    /// Number of processes of each node that ended.
    deaths: Vec<usize>,
    /// Time at which a dead node is started again.
    due: Vec<Option<Instant>>,
    /// Process of the head's rank, as it was seen last.
    own_rank: Option<u32>,
    logs: PathBuf,
}

impl Site {
    /// Starts a group. Its processes' logs go to `logs`.
    pub fn start(shape: Shape, setting: Setting, logs: PathBuf) -> Result<Self> {
        fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
        let mut spec = Spec::new(Way::MultiNode, shape.world_size, "builtin://tiny")
            .with("LOCKSTEP_DTYPE", "f32")
            .with("LOCKSTEP_THREADS", 1)
            .with("MISTRALRS_PIPELINE_PARALLEL", shape.stages);
        let around = Around::make(setting, shape.world_size, &logs)?;
        around.apply(&mut spec);
        let group = Group::start(spec);
        Ok(Self {
            witness: Witness::start(group.endpoint())?,
            group,
            around,
            ended: Vec::new(),
            condemned: HashSet::new(),
            doomed: None,
            deaths: vec![0; shape.world_size],
            due: vec![None; shape.world_size],
            own_rank: None,
            logs,
        })
    }

    /// Looks after the processes for `time`.
    pub async fn pause(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            self.look();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_PAUSE)).await;
        }
    }

    /// Looks after the processes until `holds` is true.
    ///
    /// # Errors
    /// Fails if that takes longer than `limit`.
    pub async fn await_that(&mut self, what: &str, limit: Duration, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let began = Instant::now();
        while !holds(self) {
            if began.elapsed() > limit {
                let pending = self.witness.latest().map(|status| status.pending);
                bail!("{what}: not within {limit:?}; the head waits for {pending:?}");
            }
            self.pause(LOOK_PAUSE).await;
        }
        Ok(())
    }

    /// Returns the process of a node's rank: the head's child or a worker. `None`: it is dead just now.
    pub fn rank_process(&mut self, node: usize) -> Option<u32> {
        let process = self.group.nodes[node].as_mut()?;
        let process = process.is_running().then(|| process.id())?;
        if node > 0 { Some(process) } else { children(process).first().copied() }
    }

    /// Returns how many processes of a node have ended.
    pub fn deaths(&self, node: usize) -> usize {
        self.deaths[node]
    }

    pub fn head_process(&self) -> Option<u32> {
        self.group.nodes[0].as_ref().map(|head| head.id())
    }

    /// Notes that a fault will end a process.
    pub fn condemn(&mut self, pid: u32) {
        self.condemned.insert(pid);
    }

    /// Returns the ends of processes to which no fault was done, since the last call.
    pub fn take_ended(&mut self) -> Vec<String> {
        std::mem::take(&mut self.ended)
    }

    /// Notes deaths, and starts dead nodes again when that is due.
    fn look(&mut self) {
        for node in 0..self.group.nodes.len() {
            if self.due[node].is_none() && self.has_ended(node) {
                self.due[node] = Some(Instant::now() + RESTART_PAUSE);
            }
            if self.due[node].is_some_and(|due| due <= Instant::now()) {
                self.due[node] = None;
                self.group.start_node(node);
            }
        }
        self.look_at_own_rank();
    }

    /// Returns true if a node's process has just ended, and keeps its output.
    fn has_ended(&mut self, node: usize) -> bool {
        let process = self.group.nodes[node].as_mut().expect("a process");
        if process.is_running() {
            return false;
        }
        let (pid, status) = (process.id(), process.wait());
        let output = process.all_output();
        self.keep_log(node, &output);
        self.deaths[node] += 1;
        if !self.condemned.remove(&pid) && self.doomed != Some(node) {
            self.ended.push(format!("node {node} (pid {pid}) ended: {status}"));
        }
        true
    }

    /// Notes when the head has another child than before.
    fn look_at_own_rank(&mut self) {
        let Some(now) = self.rank_process(0) else { return };
        if let Some(before) = self.own_rank.replace(now).filter(|before| *before != now)
            && !self.condemned.remove(&before)
        {
            self.ended.push(format!("the head's rank (pid {before}) ended"));
        }
    }

    fn keep_log(&self, node: usize, output: &str) {
        let path = self.logs.join(format!("node-{node}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{output}")) {
            eprintln!("cannot write {}: {error}", path.display());
        }
    }

    /// Ends the group. Keeps its processes' logs if `keep_logs`.
    pub fn end(mut self, keep_logs: bool) {
        if keep_logs {
            self.keep_logs();
        }
        let logs = self.logs.clone();
        drop(self);
        if !keep_logs {
            fs::remove_dir_all(&logs).ok();
        }
    }

    /// Writes the logs of the processes that still run.
    fn keep_logs(&mut self) {
        for node in 0..self.group.nodes.len() {
            let output = self.group.nodes[node].as_mut().map(|process| process.all_output()).unwrap_or_default();
            self.keep_log(node, &output);
        }
        if let Ok(disk) = self.around.disk() {
            disk.keep_logs(&self.logs);
        }
    }
}

/// Sends a signal to a process of the campaign. A process that has just ended gets none.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        kill_process(pid, signal).ok();
    }
}
