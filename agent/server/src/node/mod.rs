//! A node: its local ranks, and the stream to the head that moves them.
//!
//! Weights outlive the stream. Where it breaks, the ranks leave their epoch and the node dials again; only where the
//! head says that this process must not go on does it end.

mod devices;
mod health;
mod heartbeat;
mod introduction;
mod link;
mod load;
mod memory;
mod opening;
mod probes;
mod rank;
mod session;
mod steps;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use lockstep_engine::source::ModelFiles;
use lockstep_hub::Progress;
use lockstep_proto::backoff::Backoff;
use lockstep_proto::names::{env, role};
use lockstep_proto::node::{self as pb, from_head, from_node};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::auth::GroupKey;
use crate::config::{NodeConfig, RingSetup};
use crate::tls::Tls;
use crate::wire;
use health::Health;
use link::{FormSpec, Links};
use opening::{Opened, Opening};
use rank::{RankCommand, RankEvent, RankEventKind, RankHandle};
use session::{Outbound, Session, SessionError};
use steps::Steps;

/// Events that may wait for the node's task.
const EVENTS: usize = 256;
/// Pauses between dials that fail.
const DIAL_PAUSES: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
/// Dials that may fail at first before the log mentions it.
const QUIET_DIALS: u32 = 3;
/// The head is told that this node leaves; without its answer the node leaves all the same. Shorter than the 30 s that
/// Kubernetes gives a pod to end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(25);
/// How often the node's task turns where nothing happens.
const IDLE_TURN: Duration = Duration::from_secs(1);
/// Looking for a ring may take this long.
const LONG_TURN: Duration = Duration::from_secs(900);
/// A last word needs this long to leave the process.
const FAREWELL: Duration = Duration::from_millis(200);

/// The cluster of a ring whose processes were told of none.
pub const RING_CLUSTER: &str = "ring";

/// How a node ended, other than by an error.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The head drained the group.
    Drained,
    /// This process was told to stop.
    Stopped,
}

/// Runs the node until the group drains or `stop` is cancelled.
///
/// # Errors
/// What keeps this process from being part of the group, with the remedy.
pub async fn run(config: NodeConfig, stop: CancellationToken) -> anyhow::Result<Ended> {
    let key = config.common.group_key.as_deref().map(GroupKey::read).transpose()?;
    let tls = config.common.tls.as_deref().map(|folder| Tls::open(folder, role::NODE)).transpose()?.map(Arc::new);
    let mut node = Node::start(config, key)?;
    if let Some(address) = node.config.probes {
        let counters = node.ranks.iter().map(|rank| rank.counters.clone()).collect();
        probes::start(address, node.health.clone(), counters).await?;
    }
    let Some(mut control) = node.find_head(&stop).await? else { return Ok(Ended::Stopped) };
    let mut complaint = Complaint::default();
    loop {
        node.health.turn(health::TURN);
        let attached = tokio::select! {
            attached = session::attach(&control, node.hello(), node.key.as_ref(), tls.clone()) => attached,
            () = stop.cancelled() => return Ok(Ended::Stopped),
        };
        let reason = match attached {
            Ok(session) => {
                complaint = Complaint::default();
                tracing::info!(head = %control, "joined the group");
                node.health.attached(true);
                let left = node.serve(session, &stop).await;
                node.health.attached(false);
                match left? {
                    Left::Ended(ended) => return Ok(ended),
                    Left::Broken(reason) => reason,
                }
            }
            Err(SessionError::Refused(reason)) => anyhow::bail!("the head at {control} refuses this node: {reason}"),
            Err(SessionError::Unreachable(reason)) => reason,
        };
        tokio::select! {
            () = tokio::time::sleep(complaint.about(&control, &reason)) => (),
            () = stop.cancelled() => return Ok(Ended::Stopped),
        }
        if node.head_may_move() {
            let Some(found) = node.find_head(&stop).await? else { return Ok(Ended::Stopped) };
            control = found;
        }
    }
}

/// Failures to reach the head, one after the other: how long to wait, and how often to mention it.
struct Complaint {
    failures: u32,
    pauses: Backoff,
}

impl Default for Complaint {
    fn default() -> Self {
        Self { failures: 0, pauses: DIAL_PAUSES }
    }
}

impl Complaint {
    /// Logs the first failures in a whisper (a head that starts together with its workers is not there at once), later
    /// ones less and less often, and returns the pause before the next try.
    fn about(&mut self, control: &str, reason: &str) -> Duration {
        self.failures += 1;
        if self.failures > QUIET_DIALS && self.failures.is_power_of_two() {
            tracing::warn!(head = control, failures = self.failures, reason, "no stream to the head: trying again");
        } else {
            tracing::debug!(head = control, failures = self.failures, reason, "no stream to the head: trying again");
        }
        self.pauses.next_pause()
    }
}

/// Why a session is over.
enum Left {
    Ended(Ended),
    Broken(String),
}

struct Node {
    config: NodeConfig,
    key: Option<GroupKey>,
    links: Links,
    ring_addresses: Vec<String>,
    ranks: Vec<RankHandle>,
    events: mpsc::Receiver<RankEvent>,
    outbound: watch::Sender<Option<Outbound>>,
    health: Arc<Health>,
    /// Name of the instruction set.
    isa: &'static str,
    incarnation: u64,
    last_epoch: u64,
    assignment: pb::Assignment,
    /// Digest of the model that the ranks were told to load.
    model: String,
    /// That model on its way to the ranks.
    opening: Option<Opening>,
    /// What each local rank said when it had loaded.
    loaded: Vec<Option<pb::Loaded>>,
    /// Ranks that have joined the epoch, and the results of steps that not all ranks have finished.
    formed: usize,
    steps: Steps,
}

impl Node {
    fn start(config: NodeConfig, key: Option<GroupKey>) -> anyhow::Result<Self> {
        let local = config.local_world_size;
        let (listen, or_free) = match config.ring {
            RingSetup::Auto { listen, or_free } => (listen, or_free),
            RingSetup::Ring { listen, .. } => (listen, false),
        };
        let links = Links::bind(listen, or_free, local, key.clone())?;
        let ring_addresses = links.addresses().iter().map(ToString::to_string).collect();
        let (sender, events) = mpsc::channel(EVENTS);
        let ranks: Result<Vec<_>, _> =
            (0..local as usize).map(|rank| RankHandle::start(rank, links.clone(), sender.clone())).collect();
        let ranks = ranks.context("start a rank's thread")?;
        let (outbound, watcher) = watch::channel(None);
        let health = Arc::new(Health::new(config.ordinal * local, local));
        heartbeat::start(ranks.iter().map(|rank| rank.counters.clone()).collect(), watcher, health.clone())
            .context("start the heartbeat's thread")?;
        let isa = lockstep_engine::isa_name(config.common.isa.as_deref())?;
        let incarnation = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
        Ok(Self {
            config,
            key,
            links,
            ring_addresses,
            ranks,
            events,
            outbound,
            health,
            isa,
            incarnation,
            last_epoch: 0,
            assignment: pb::Assignment::default(),
            model: String::new(),
            opening: None,
            loaded: vec![None; local as usize],
            formed: 0,
            steps: Steps::default(),
        })
    }

    /// Does what the head says until the stream ends.
    async fn serve(&mut self, session: Session, stop: &CancellationToken) -> anyhow::Result<Left> {
        let Session { mut inbound, outbound, assignment } = session;
        self.outbound.send_replace(Some(outbound.clone()));
        self.assign(assignment, &outbound).await?;
        let mut leave: Option<tokio::time::Instant> = None;
        let mut turn = tokio::time::interval(IDLE_TURN);
        let left = loop {
            self.health.turn(health::TURN);
            let deadline = leave.unwrap_or_else(|| tokio::time::Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(pb::FromHead { message: Some(message) })) => {
                        if let Some(ended) = self.message(message)? {
                            break Left::Ended(ended);
                        }
                    }
                    Ok(Some(_)) => (),
                    _ if leave.is_some() => break Left::Ended(Ended::Stopped),
                    Ok(None) => break Left::Broken("the head hung up".into()),
                    Err(status) => match SessionError::of(&status) {
                        SessionError::Refused(reason) => anyhow::bail!("the head ended this node: {reason}"),
                        SessionError::Unreachable(reason) => break Left::Broken(reason),
                    },
                },
                Some(event) = self.events.recv() => {
                    if let Some(message) = self.rank_event(event) {
                        send(&outbound, message).await?;
                    }
                }
                opened = next(&mut self.opening) => self.opened(opened, &outbound).await?,
                _ = turn.tick() => (),
                () = stop.cancelled(), if leave.is_none() => {
                    self.health.leaving();
                    let leaving = pb::Leaving { reason: "its process was told to stop".into() };
                    send(&outbound, from_node::Message::Leaving(leaving)).await?;
                    leave = Some(tokio::time::Instant::now() + LEAVE_TIMEOUT);
                }
                () = tokio::time::sleep_until(deadline), if leave.is_some() => break Left::Ended(Ended::Stopped),
            }
        };
        self.outbound.send_replace(None);
        self.void(self.last_epoch, "the stream to the head broke");
        Ok(left)
    }

    /// Ends all epochs up to `epoch`; one that was never announced here cannot be ended.
    fn void(&mut self, epoch: u64, reason: &str) {
        let epoch = epoch.min(self.last_epoch);
        for rank in &self.ranks {
            rank.void(epoch, reason);
        }
        self.formed = 0;
        self.steps.clear();
        self.health.unjoined();
    }

    async fn assign(&mut self, assignment: pb::Assignment, outbound: &Outbound) -> anyhow::Result<()> {
        let model = assignment.model.clone().context("the head's assignment names no model")?;
        if let Some(told) = self.config.pipeline.filter(|told| *told != assignment.pipeline_parallel_size) {
            anyhow::bail!(
                "{}={told}, but the head's group has {} stages: set it alike everywhere, or on the head alone",
                env::PIPELINE_PARALLEL,
                assignment.pipeline_parallel_size
            );
        }
        let same = model.digest == self.model
            && assignment.first_rank == self.assignment.first_rank
            && assignment.world_size == self.assignment.world_size
            && assignment.pipeline_parallel_size == self.assignment.pipeline_parallel_size;
        self.assignment = assignment;
        if same {
            if let Some(message) = self.all_loaded() {
                send(outbound, message).await?;
            }
            return Ok(());
        }
        tracing::info!(
            source = model.source,
            first_rank = self.assignment.first_rank,
            world_size = self.assignment.world_size,
            stages = self.assignment.pipeline_parallel_size,
            "loading"
        );
        self.model.clone_from(&model.digest);
        self.loaded.fill(None);
        self.health.loading();
        self.opening = Some(Opening::start(model, self.config.common.hub.clone()));
        Ok(())
    }

    /// News of the model on its way.
    async fn opened(&mut self, opened: Opened, outbound: &Outbound) -> anyhow::Result<()> {
        match opened {
            Opened::Progress(progress) => self.downloads(progress, outbound).await,
            Opened::Files(files) => {
                self.opening = None;
                match self.load(&files) {
                    Ok(()) => Ok(()),
                    Err(error) => send(outbound, self.fatal(0, format!("{error:#}"))).await,
                }
            }
            Opened::Failed(reason) => {
                let from = self.opening.take().map(|opening| opening.source.clone()).unwrap_or_default();
                send(outbound, self.fatal(0, format!("open the model {from}: {reason}"))).await
            }
        }
    }

    async fn downloads(&mut self, progress: Progress, outbound: &Outbound) -> anyhow::Result<()> {
        let (phase, bytes_loaded, bytes_total) = (rank::DOWNLOADING, progress.bytes, progress.total);
        self.health.downloading();
        for local_rank in 0..self.ranks.len() {
            self.health.progress(local_rank, bytes_loaded, bytes_total);
            let rank = self.assignment.first_rank + local_rank as u32;
            let progress = pb::Progress { rank, phase, bytes_loaded, bytes_total };
            send(outbound, from_node::Message::Progress(progress)).await?;
        }
        Ok(())
    }

    fn load(&mut self, files: &Arc<dyn ModelFiles>) -> anyhow::Result<()> {
        self.health.loading();
        for local_rank in 0..self.ranks.len() {
            let spec = self.load_spec(local_rank, files.clone())?;
            if !self.ranks[local_rank].tell(RankCommand::Load(Box::new(spec))) {
                anyhow::bail!("rank thread {local_rank} does not take commands");
            }
        }
        Ok(())
    }

    fn message(&mut self, message: from_head::Message) -> anyhow::Result<Option<Ended>> {
        match message {
            from_head::Message::Plan(wire) => {
                let sent_nanos = wire.sent_nanos;
                let plan = Arc::new(wire::plan_from_wire(wire)?);
                for rank in &self.ranks {
                    if !rank.tell(RankCommand::Step { plan: plan.clone(), sent_nanos }) {
                        anyhow::bail!("a rank has not taken {} plans in a row", rank::COMMANDS);
                    }
                }
            }
            from_head::Message::Form(form) => {
                self.form(&form);
                self.greet_neighbour()?;
            }
            from_head::Message::Abort(abort) => {
                tracing::warn!(epoch = abort.epoch, reason = abort.reason, "the epoch is over");
                self.void(abort.epoch, &abort.reason);
            }
            from_head::Message::Pulse(pulse) => self.health.pulse(pulse),
            from_head::Message::Drain(drain) => {
                tracing::info!(reason = drain.reason, "drained");
                return Ok(Some(Ended::Drained));
            }
            from_head::Message::Assignment(_) | from_head::Message::Challenge(_) => {
                anyhow::bail!("the head sent a second assignment")
            }
        }
        Ok(None)
    }

    fn form(&mut self, form: &pb::Form) {
        self.void(form.epoch.saturating_sub(1), "a newer epoch forms");
        self.last_epoch = form.epoch;
        let cores = load::cores();
        let spec = FormSpec {
            epoch: form.epoch,
            cluster_id: self.assignment.cluster_id.clone(),
            first_rank: self.assignment.first_rank as usize,
            addresses: form.addresses.clone(),
            stages: self.assignment.pipeline_parallel_size as usize,
            backend: form.backend.clone(),
            num_blocks: form.num_blocks,
            timeout: Duration::from_millis(form.timeout_ms.into()),
            spin: cores >= self.ranks_here(),
        };
        for rank in &self.ranks {
            rank.tell(RankCommand::Form(spec.clone()));
        }
    }

    /// What the head is to hear of a rank's event.
    fn rank_event(&mut self, event: RankEvent) -> Option<from_node::Message> {
        let rank = self.assignment.first_rank + event.local_rank as u32;
        match event.kind {
            RankEventKind::Progress { loaded, total } => {
                self.health.progress(event.local_rank, loaded, total);
                let (phase, bytes_loaded, bytes_total) = (rank::LOADING, loaded, total);
                Some(from_node::Message::Progress(pb::Progress { rank, phase, bytes_loaded, bytes_total }))
            }
            RankEventKind::Loaded { facts } => {
                self.loaded[event.local_rank] = Some(facts);
                self.all_loaded()
            }
            RankEventKind::LoadFailed { reason } => Some(self.fatal(event.local_rank, reason)),
            RankEventKind::Formed { epoch } if epoch == self.last_epoch => {
                self.formed += 1;
                if self.formed < self.ranks.len() {
                    return None;
                }
                self.health.joined(epoch);
                Some(from_node::Message::Formed(pb::Formed { epoch }))
            }
            RankEventKind::Formed { .. } => None,
            RankEventKind::StepDone { output, .. } if output.epoch != self.last_epoch => None,
            RankEventKind::StepDone { output, micros, fan_out_nanos } => {
                let reports = rank == wire::reporting_rank(&self.assignment);
                let sampled = if reports { wire::sampled_to_wire(output.sampled) } else { Vec::new() };
                let (epoch, step) = (output.epoch, output.step);
                let done = pb::StepDone { epoch, step, micros, sampled, fan_out_nanos };
                self.steps.add(done, self.ranks.len()).map(from_node::Message::StepDone)
            }
            RankEventKind::Fault { epoch, reason } => {
                tracing::warn!(rank, epoch, reason, "cannot go on in this epoch");
                Some(from_node::Message::Fault(pb::Fault { epoch, rank, message: reason, fatal: false }))
            }
        }
    }

    /// What the head is told before this process ends.
    fn fatal(&self, local_rank: usize, message: String) -> from_node::Message {
        let rank = self.assignment.first_rank + local_rank as u32;
        from_node::Message::Fault(pb::Fault { epoch: self.last_epoch, rank, message, fatal: true })
    }

    /// Loaded, once every local rank has.
    fn all_loaded(&self) -> Option<from_node::Message> {
        let mut all = self.loaded.iter().map(Option::as_ref);
        let mut merged = all.next()??.clone();
        for one in all {
            let one = one?;
            merged.num_blocks = merged.num_blocks.min(one.num_blocks);
            merged.bytes_read += one.bytes_read;
        }
        merged.model.clone_from(&self.model);
        self.health.loaded();
        tracing::info!(blocks = merged.num_blocks, bytes = merged.bytes_read, "loaded");
        Some(from_node::Message::Loaded(merged))
    }
}

/// News of the model on its way; none where there is none.
async fn next(opening: &mut Option<Opening>) -> Opened {
    match opening {
        Some(opening) => opening.next().await,
        None => std::future::pending().await,
    }
}

/// Tells the head.
///
/// # Errors
/// A fatal fault is this process's end, once it is told.
async fn send(outbound: &Outbound, message: from_node::Message) -> anyhow::Result<()> {
    let fatal = match &message {
        from_node::Message::Fault(fault) if fault.fatal => Some(format!("rank {}: {}", fault.rank, fault.message)),
        _ => None,
    };
    // A stream that has closed is noticed where it is read.
    outbound.send(pb::FromNode { message: Some(message) }).await.ok();
    let Some(reason) = fatal else { return Ok(()) };
    tokio::time::sleep(FAREWELL).await;
    anyhow::bail!(reason)
}
