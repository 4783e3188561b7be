//! One local rank: a thread that owns its tensors. Commands come in by a bounded channel, events go out.
//!
//! What must not wait behind a command goes beside the channel: [`RankHandle::void`] ends every epoch up to one at
//! once, and the heartbeat reads the counters.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use lockstep_collectives::AbortSwitch;
use lockstep_engine::{PlacedLayers, Runner, RunnerConfig};
use lockstep_proto::errors::with_causes;
use lockstep_proto::node as pb;
use lockstep_proto::v1::Phase;
use lockstep_schedule::plan::{StepOutput, StepPlan};
use tokio::sync::mpsc;

use super::devices;
use super::link::{FormSpec, Links};
use super::memory;
use crate::clock;
use crate::config::{DevicesConfig, MAX_STAGES};

/// Commands that may wait for a rank: the plans in flight, a Form and a Load, with room to spare.
pub const COMMANDS: usize = 2 * MAX_STAGES as usize;
/// A loading rank tells of each of so many parts of its weights.
const PROGRESS_PARTS: u64 = 50;

/// What a rank is told.
pub enum RankCommand {
    Load(Box<LoadSpec>),
    Form(FormSpec),
    Step { plan: Arc<StepPlan>, sent_nanos: u64 },
}

/// A model to load, and how much KV cache to make room for.
pub struct LoadSpec {
    pub runner: RunnerConfig,
    /// Of this node; the rank opens its own.
    pub devices: DevicesConfig,
    pub blocks: Box<CountBlocks>,
}

/// How many blocks a rank may hold in all of its places.
pub type CountBlocks = dyn Fn(&[PlacedLayers]) -> u32 + Send;

/// What a rank tells, beside its counters.
#[derive(Debug)]
pub struct RankEvent {
    pub local_rank: usize,
    pub kind: RankEventKind,
}

#[derive(Debug)]
pub enum RankEventKind {
    Progress { loaded: u64, total: u64 },
    Loaded { facts: pb::Loaded },
    LoadFailed { reason: String },
    Formed { epoch: u64 },
    StepDone { output: StepOutput, micros: u64, fan_out_nanos: u64 },
    Fault { epoch: u64, reason: String },
}

/// What other threads see of a rank.
#[derive(Debug, Default)]
pub struct RankCounters {
    pub epoch: AtomicU64,
    /// Layers and collectives entered and left in this epoch.
    pub ticks: Arc<AtomicU64>,
    /// Pieces of collectives that moved.
    pub moved: Arc<AtomicU64>,
    pub busy: AtomicBool,
    pub last_step: AtomicU64,
    pub bytes_read: AtomicU64,
    /// Epochs up to this one are over.
    floor: AtomicU64,
    switch: Mutex<Option<(u64, AbortSwitch)>>,
}

impl RankCounters {
    fn is_void(&self, epoch: u64) -> bool {
        epoch <= self.floor.load(Ordering::SeqCst)
    }
}

/// The way to a rank.
pub struct RankHandle {
    commands: SyncSender<RankCommand>,
    pub counters: Arc<RankCounters>,
}

impl RankHandle {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system has no thread left.
    pub fn start(local_rank: usize, links: Links, events: mpsc::Sender<RankEvent>) -> std::io::Result<Self> {
        let (commands, inbox) = sync_channel(COMMANDS);
        let counters = Arc::new(RankCounters::default());
        let mut body = Body { local_rank, links, events, counters: counters.clone(), runner: None };
        std::thread::Builder::new().name(format!("rank-{local_rank}")).spawn(move || body.run(&inbox))?;
        Ok(Self { commands, counters })
    }

    /// False if the rank has ended or too many commands wait.
    pub fn tell(&self, command: RankCommand) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// Ends all epochs up to `epoch`: plans of theirs are dropped, blocked collectives wake.
    pub fn void(&self, epoch: u64, reason: &str) {
        self.counters.floor.fetch_max(epoch, Ordering::SeqCst);
        let switch = self.counters.switch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, switch)) = switch.as_ref().filter(|(of, _)| *of <= epoch) {
            switch.abort(reason);
        }
    }
}

/// The thread's state.
struct Body {
    local_rank: usize,
    links: Links,
    events: mpsc::Sender<RankEvent>,
    counters: Arc<RankCounters>,
    runner: Option<Runner>,
}

impl Body {
    fn run(&mut self, inbox: &Receiver<RankCommand>) {
        while let Ok(command) = inbox.recv() {
            match command {
                RankCommand::Load(spec) => self.load(*spec),
                RankCommand::Form(spec) if self.counters.is_void(spec.epoch) => (),
                RankCommand::Form(spec) => self.form(&spec),
                RankCommand::Step { plan, .. } if self.counters.is_void(plan.epoch) => (),
                RankCommand::Step { plan, sent_nanos } => self.step(&plan, sent_nanos),
            }
        }
    }

    fn tell(&self, kind: RankEventKind) {
        // The receiver lives as long as the node; without it there is nobody to tell.
        self.events.blocking_send(RankEvent { local_rank: self.local_rank, kind }).ok();
    }

    fn load(&mut self, mut spec: LoadSpec) {
        // The old weights go first: both would not fit.
        self.runner = None;
        spec.runner.progress = self.counters.ticks.clone();
        let mut told = 0;
        let mut progress = |loaded, total: u64| {
            self.counters.bytes_read.store(loaded, Ordering::Relaxed);
            let part = loaded.saturating_mul(PROGRESS_PARTS) / total.max(1);
            if part > told || loaded >= total {
                told = part;
                self.tell(RankEventKind::Progress { loaded, total });
            }
        };
        let loaded = devices::open(&spec.devices, self.local_rank).and_then(|devices| {
            let runner = Runner::load(RunnerConfig { devices, ..spec.runner }, &mut progress)?;
            let placed = runner.placed_layers()?;
            Ok((runner, placed))
        });
        match loaded {
            Ok((runner, placed)) => {
                tell_placement(&runner, &placed);
                let facts = runner.facts();
                let facts = pb::Loaded {
                    num_blocks: (spec.blocks)(&placed),
                    bytes_read: runner.bytes_read(),
                    architecture: facts.architecture.to_owned(),
                    parameters: facts.parameters,
                    dtype: facts.dtype.to_owned(),
                    ..Default::default()
                };
                self.runner = Some(runner);
                self.tell(RankEventKind::Loaded { facts });
            }
            Err(error) => self.tell(RankEventKind::LoadFailed { reason: with_causes(&error) }),
        }
    }

    fn form(&mut self, spec: &FormSpec) {
        let epoch = spec.epoch;
        let Some(runner) = &mut self.runner else {
            return self.tell(RankEventKind::Fault { epoch, reason: "told to form before it has loaded".into() });
        };
        runner.end_epoch();
        self.counters.ticks.store(0, Ordering::SeqCst);
        self.counters.epoch.store(epoch, Ordering::SeqCst);
        let switch = match AbortSwitch::new() {
            Ok(switch) => switch,
            Err(error) => return self.tell(RankEventKind::Fault { epoch, reason: error.to_string() }),
        };
        *self.counters.switch.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, switch.clone()));
        if self.counters.is_void(epoch) {
            return;
        }
        let formed = self
            .links
            .form(self.local_rank, spec, self.counters.moved.clone(), &switch)
            .map_err(|error| error.to_string())
            .and_then(|links| runner.start_epoch(epoch, links, spec.num_blocks).map_err(|error| with_causes(&error)));
        match formed {
            Ok(()) => self.tell(RankEventKind::Formed { epoch }),
            Err(_) if self.counters.is_void(epoch) => (),
            Err(reason) => self.tell(RankEventKind::Fault { epoch, reason: format!("join epoch {epoch}: {reason}") }),
        }
    }

    fn step(&mut self, plan: &StepPlan, sent_nanos: u64) {
        let Some(runner) = &mut self.runner else { return };
        let began = Instant::now();
        let fan_out_nanos = if sent_nanos == 0 { 0 } else { clock::monotonic_nanos().saturating_sub(sent_nanos) };
        self.counters.busy.store(true, Ordering::SeqCst);
        let result = runner.step(plan);
        self.counters.busy.store(false, Ordering::SeqCst);
        match result {
            Ok(output) => {
                self.counters.last_step.store(plan.step, Ordering::SeqCst);
                let micros = began.elapsed().as_micros() as u64;
                self.tell(RankEventKind::StepDone { output, micros, fan_out_nanos });
            }
            Err(_) if self.counters.is_void(plan.epoch) => runner.end_epoch(),
            Err(error) => {
                runner.end_epoch();
                // Whatever waits of this epoch is void; the head is told why and ends it for all.
                self.counters.floor.fetch_max(plan.epoch, Ordering::SeqCst);
                let reason = format!("step {}: {}", plan.step, with_causes(&error));
                self.tell(RankEventKind::Fault { epoch: plan.epoch, reason });
            }
        }
    }
}

/// The plan of a rank's layers: a line for each place.
fn tell_placement(runner: &Runner, placed: &[PlacedLayers]) {
    let grid = runner.grid();
    for run in placed {
        tracing::info!(
            rank = grid.rank(),
            stage = grid.pipeline().rank(),
            layers = ?run.layers,
            of = runner.facts().num_layers,
            device = run.device,
            weight_bytes = run.weight_bytes,
            free_bytes = run.free_bytes.unwrap_or_else(memory::free_bytes),
            "placed layers"
        );
    }
}

/// The phase of a rank whose weights are fetched.
pub const DOWNLOADING: i32 = Phase::Downloading as i32;
/// The phase of a rank that reads weights.
pub const LOADING: i32 = Phase::Loading as i32;
