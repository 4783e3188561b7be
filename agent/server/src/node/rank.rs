//! One local rank: a thread that owns the rank's tensors. It takes commands from a bounded channel, and sends events.
//!
//! Two things do not go through the channel, because they must not wait behind a command.
//! [`RankHandle::abort_epochs`] aborts epochs at once, and the heartbeat reads the rank's counters.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use lockstep_collectives::AbortSwitch;
use lockstep_engine::{EngineError, PlacedLayers, Runner, RunnerConfig};
use lockstep_group::node::{RankEvent, RankEventKind};
use lockstep_proto::errors::with_causes;
use lockstep_proto::node as pb;
use lockstep_schedule::plan::{SeqId, StepPlan};
use tokio::sync::mpsc;

use super::devices;
use super::memory;
use super::ring_ports::{FormSpec, RingPorts};
use crate::clock;
use crate::config::{DevicesConfig, MAX_STAGES};

/// Most commands that may wait for a rank: the plans in flight, a Form and a Load, with room to spare.
const MAX_COMMANDS: usize = 2 * MAX_STAGES as usize;
/// Number of progress events that a rank sends while it loads its weights.
const PROGRESS_EVENTS: u64 = 50;

/// Command from the node to a rank.
pub(super) enum RankCommand {
    Load(Box<LoadSpec>),
    Form(FormSpec),
    Step { plan: Arc<StepPlan>, sent_nanos: u64 },
}

/// A model to load, and the size of the KV cache.
pub(super) struct LoadSpec {
    pub runner: RunnerConfig,
    /// Devices of this node. The rank opens its own ones.
    pub devices: DevicesConfig,
    pub count_blocks: Box<CountBlocks>,
    /// The size of the KV cache is a number of bytes, so no other try finds room for more.
    pub kv_cache_is_fixed: bool,
}

/// Function that returns the number of KV cache blocks of a rank with the given places, at least one, or the reason that
/// there is room for none.
pub(super) type CountBlocks = dyn Fn(&[PlacedLayers]) -> Result<u32, String> + Send;

/// Counters of a rank, which the heartbeat and the probes read from their own threads.
#[derive(Debug, Default)]
pub(super) struct RankCounters {
    /// Epoch that the rank joined last.
    pub epoch: AtomicU64,
    /// Layers and collectives that the rank has entered and left in this epoch.
    pub progress: Arc<AtomicU64>,
    /// Pieces of collectives that the rank has moved.
    pub moved: Arc<AtomicU64>,
    /// Set while the rank runs a step.
    pub busy: AtomicBool,
    pub last_step: AtomicU64,
    /// Bytes of weights that the rank has read.
    pub bytes_read: AtomicU64,
    /// Highest aborted epoch. All epochs up to this one are aborted.
    aborted_epoch: AtomicU64,
    /// Current epoch, and the switch that wakes its blocked collectives.
    abort_switch: Mutex<Option<(u64, AbortSwitch)>>,
}

impl RankCounters {
    fn is_aborted(&self, epoch: u64) -> bool {
        epoch <= self.aborted_epoch.load(Ordering::SeqCst)
    }
}

/// Handle of a rank's thread.
pub(super) struct RankHandle {
    local_rank: usize,
    commands: SyncSender<RankCommand>,
    pub counters: Arc<RankCounters>,
}

impl RankHandle {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fails if the system cannot start another thread.
    pub(super) fn start(
        local_rank: usize,
        ring_ports: RingPorts,
        events: mpsc::Sender<RankEvent>,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = sync_channel(MAX_COMMANDS);
        let counters = Arc::new(RankCounters::default());
        let mut thread = RankThread { local_rank, ring_ports, events, counters: counters.clone(), runner: None };
        std::thread::Builder::new().name(format!("rank-{local_rank}")).spawn(move || thread.run(&inbox))?;
        Ok(Self { local_rank, commands, counters })
    }

    /// Queues a command.
    ///
    /// # Errors
    /// Fails if the thread has ended or too many commands wait.
    pub(super) fn send_command(&self, command: RankCommand) -> anyhow::Result<()> {
        let rank = self.local_rank;
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => {
                anyhow::anyhow!("local rank {rank} has not taken {MAX_COMMANDS} commands in a row")
            }
            TrySendError::Disconnected(_) => anyhow::anyhow!("the thread of local rank {rank} has ended"),
        })
    }

    /// Aborts all epochs up to `epoch`. The rank drops their plans, and blocked collectives wake.
    pub(super) fn abort_epochs(&self, epoch: u64, reason: &str) {
        self.counters.aborted_epoch.fetch_max(epoch, Ordering::SeqCst);
        let abort_switch = self.counters.abort_switch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, switch)) = abort_switch.as_ref().filter(|(current, _)| *current <= epoch) {
            switch.abort(reason);
        }
    }
}

/// State of the thread.
struct RankThread {
    local_rank: usize,
    ring_ports: RingPorts,
    events: mpsc::Sender<RankEvent>,
    counters: Arc<RankCounters>,
    runner: Option<Runner>,
}

impl RankThread {
    /// Carries out commands until the node drops its handle. Reports a panic: the heartbeat goes on without this thread,
    /// so neither head nor node would miss it while no step is in flight.
    fn run(&mut self, inbox: &Receiver<RankCommand>) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.carry_out_commands(inbox))) {
            self.send_event(RankEventKind::Panicked { reason: describe_panic(panic.as_ref()) });
        }
    }

    fn carry_out_commands(&mut self, inbox: &Receiver<RankCommand>) {
        while let Ok(command) = inbox.recv() {
            match command {
                RankCommand::Load(spec) => self.load_model(*spec),
                RankCommand::Form(spec) if self.counters.is_aborted(spec.epoch) => (),
                RankCommand::Form(spec) => self.join_epoch(&spec),
                RankCommand::Step { plan, .. } if self.counters.is_aborted(plan.epoch) => (),
                RankCommand::Step { plan, sent_nanos } => self.run_step(&plan, sent_nanos),
            }
        }
    }

    /// Reports that this rank cannot go on in an epoch. `seq` is the sequence that the fault is about.
    fn send_fault(&self, epoch: u64, reason: String, seq: Option<SeqId>) {
        self.send_event(RankEventKind::Fault { epoch, reason, seq });
    }

    fn send_event(&self, kind: RankEventKind) {
        // The receiver lives as long as the node's task. If it is gone, the process is about to end.
        self.events.blocking_send(RankEvent { local_rank: self.local_rank, kind }).ok();
    }

    /// Loads the weights, and reports the progress.
    fn load_model(&mut self, mut spec: LoadSpec) {
        // Free the old weights first, because old and new weights together may not fit into memory.
        self.runner = None;
        spec.runner.progress = self.counters.progress.clone();
        let mut reported = 0;
        let mut report_progress = |loaded, total: u64| {
            self.counters.bytes_read.store(loaded, Ordering::Relaxed);
            let part = loaded.saturating_mul(PROGRESS_EVENTS) / total.max(1);
            if part > reported || loaded >= total {
                reported = part;
                self.send_event(RankEventKind::Progress { loaded, total });
            }
        };
        let loaded = devices::open_devices(&spec.devices, self.local_rank).and_then(|devices| {
            let runner = Runner::load(RunnerConfig { devices, ..spec.runner }, &mut report_progress)?;
            let placed = runner.placed_layers()?;
            Ok((runner, placed))
        });
        match loaded {
            Ok((runner, placed)) => {
                log_placement(&runner, &placed);
                match (spec.count_blocks)(&placed) {
                    Ok(num_blocks) => {
                        let loaded = pb::Loaded { num_blocks, bytes_read: runner.bytes_read(), ..Default::default() };
                        self.runner = Some(runner);
                        self.send_event(RankEventKind::Loaded { loaded });
                    }
                    Err(reason) => {
                        let model_is_unusable = spec.kv_cache_is_fixed;
                        self.send_event(RankEventKind::LoadFailed { reason, model_is_unusable });
                    }
                }
            }
            Err(error) => {
                let model_is_unusable = error.is_fault_of_model();
                self.send_event(RankEventKind::LoadFailed { reason: with_causes(&error), model_is_unusable });
            }
        }
    }

    /// Joins an epoch.
    fn join_epoch(&mut self, spec: &FormSpec) {
        let epoch = spec.epoch;
        let Some(runner) = &mut self.runner else {
            return self.send_fault(epoch, "the rank received Form before it loaded".into(), None);
        };
        runner.end_epoch();
        self.counters.progress.store(0, Ordering::SeqCst);
        self.counters.epoch.store(epoch, Ordering::SeqCst);
        let switch = match AbortSwitch::new() {
            Ok(switch) => switch,
            Err(error) => return self.send_fault(epoch, error.to_string(), None),
        };
        *self.counters.abort_switch.lock().unwrap_or_else(PoisonError::into_inner) = Some((epoch, switch.clone()));
        if self.counters.is_aborted(epoch) {
            return;
        }
        let formed = self
            .ring_ports
            .join_epoch(self.local_rank, spec, self.counters.moved.clone(), &switch)
            .map_err(|error| error.to_string())
            .and_then(|links| runner.start_epoch(epoch, links, spec.num_blocks).map_err(|error| with_causes(&error)));
        match formed {
            Ok(()) => self.send_event(RankEventKind::Formed { epoch }),
            Err(_) if self.counters.is_aborted(epoch) => (),
            Err(reason) => self.send_fault(epoch, format!("join epoch {epoch}: {reason}"), None),
        }
    }

    /// Runs one step by its plan, and reports the result.
    fn run_step(&mut self, plan: &StepPlan, sent_nanos: u64) {
        let Some(runner) = &mut self.runner else { return };
        let started_at = Instant::now();
        let fan_out_nanos = if sent_nanos == 0 { 0 } else { clock::monotonic_nanos().saturating_sub(sent_nanos) };
        self.counters.busy.store(true, Ordering::SeqCst);
        let result = runner.step(plan);
        self.counters.busy.store(false, Ordering::SeqCst);
        match result {
            Ok(output) => {
                self.counters.last_step.store(plan.step, Ordering::SeqCst);
                let micros = started_at.elapsed().as_micros() as u64;
                self.send_event(RankEventKind::StepDone { output, micros, fan_out_nanos });
            }
            Err(_) if self.counters.is_aborted(plan.epoch) => runner.end_epoch(),
            Err(error) => {
                runner.end_epoch();
                // The rank drops the plans of this epoch that still wait. The head learns the reason and ends the
                // epoch.
                self.counters.aborted_epoch.fetch_max(plan.epoch, Ordering::SeqCst);
                let reason = format!("step {}: {}", plan.step, with_causes(&error));
                let seq = match error {
                    EngineError::Logits { seq, .. } => Some(seq),
                    _ => None,
                };
                self.send_fault(plan.epoch, reason, seq);
            }
        }
    }
}

/// Describes a panic by its message.
fn describe_panic(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the rank's thread panicked, which is a defect of the agent: {}", text.unwrap_or("it left no message"))
}

/// Logs a line for each place of the rank's layers.
fn log_placement(runner: &Runner, placed: &[PlacedLayers]) {
    let grid = runner.grid();
    for place in placed {
        tracing::info!(
            rank = grid.rank(),
            stage = grid.pipeline().rank(),
            layers = ?place.layers,
            of = runner.facts().num_layers,
            device = place.device,
            weight_bytes = place.weight_bytes,
            free_bytes = place.free_bytes.unwrap_or_else(memory::free_bytes),
            "placed layers"
        );
    }
}

#[cfg(test)]
mod tests {
    use lockstep_collectives::Grid;
    use lockstep_engine::source::ModelFiles;
    use lockstep_engine::{Devices, EngineError};
    use lockstep_group::node::{Input, Output};
    use lockstep_proto::node::from_node;

    use super::*;
    use crate::config::{self, Build, Environment, Role};
    use crate::node::Node;

    /// Files whose reading panics.
    #[derive(Debug)]
    struct PanickingFiles;

    impl ModelFiles for PanickingFiles {
        fn source(&self) -> &str {
            "test://panics"
        }

        fn size(&self, name: &str) -> Result<Option<u64>, EngineError> {
            panic!("no {name} here")
        }

        fn read_at(&self, name: &str, _: u64, _: &mut [u8]) -> Result<(), EngineError> {
            panic!("no {name} here")
        }

        fn bytes_read(&self) -> u64 {
            0
        }
    }

    fn start_node() -> Node {
        let line =
            "lockstep-agent node --control 127.0.0.1:1 --ordinal 0 --local-world-size 2 --ring-listen 127.0.0.1:0";
        let cli = config::parse(line.split(' ')).expect("a command line");
        let build = Build { nccl: false, visible_devices: 0 };
        let config = config::resolve(&cli, &Environment::default(), &build).expect("a configuration");
        let Role::Node(config) = config.role else { panic!("no node") };
        Node::start(*config, None).expect("a node")
    }

    #[test]
    fn a_panic_of_a_rank_is_a_fatal_fault_with_its_message() {
        let mut node = start_node();
        let runner = RunnerConfig {
            files: Arc::new(PanickingFiles),
            dtype: None,
            quantization: None,
            grid: Grid::new(1, 2, 1).expect("a grid"),
            block_size: 16,
            context_length: None,
            max_num_batched_tokens: 16,
            max_num_seqs: 1,
            threads: 1,
            oversubscribed: false,
            isa: None,
            devices: Devices::default(),
            progress: Arc::default(),
        };
        let spec = LoadSpec {
            runner,
            devices: DevicesConfig::default(),
            count_blocks: Box::new(|_| Ok(1)),
            kv_cache_is_fixed: false,
        };
        node.ranks[1].send_command(RankCommand::Load(Box::new(spec))).expect("room for a command");
        let event = node.events.blocking_recv().expect("an event");
        let outputs = node.session.handle(Input::Rank(event), Instant::now());
        let Some(Output::Send(from_node::Message::Fault(fault))) = outputs.into_iter().next() else {
            panic!("no fault")
        };
        assert!(fault.fatal && fault.rank == 1, "{fault:?}");
        assert!(fault.message.contains("panicked") && fault.message.contains("config.json"), "{fault:?}");
    }
}
