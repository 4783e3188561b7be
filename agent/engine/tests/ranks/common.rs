//! A group of runners as threads over the in-memory transport, and the fixtures that the tests compare them with.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;

use candle_core::{Device, Tensor};
use lockstep_collectives::memory::{Faults, form_group};
use lockstep_collectives::{Communicator, Communicators, Grid, Mesh};
use lockstep_engine::{BlockFormat, DType, Devices, EngineError, Runner, RunnerConfig, StepWithLogits, open};
use lockstep_schedule::plan::{PromptToken, SamplingParams, SeqId, StepPlan};
use lockstep_schedule::{Request, RequestOutput, Scheduler, SchedulerConfig};

/// Returns the names of the files or folders in a folder of `tests/parity`, in alphabetical order.
pub fn parity_names(folder: &str) -> Vec<String> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity")).join(folder);
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Iterates over the names of all fixtures.
pub fn fixtures() -> impl Iterator<Item = &'static str> {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| parity_names("fixtures"));
    NAMES.iter().map(String::as_str)
}

/// Output of transformers for one prompt.
pub struct ExpectedOutput {
    pub prompt: Vec<u32>,
    pub greedy: Vec<u32>,
    /// Positions of the logits: `positions[i]` is the index of the token after which `logits[i]` were computed.
    pub positions: Vec<usize>,
    pub logits: Vec<Vec<f32>>,
}

pub fn fixture_folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/fixtures")).join(name)
}

pub fn load_expected(name: &str) -> Vec<ExpectedOutput> {
    let json = std::fs::read(fixture_folder(name).join("expected.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(fixture_folder(name).join("expected.safetensors"), &Device::Cpu).unwrap();
    let numbers = |value: &serde_json::Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let read = |prompt: &serde_json::Value| ExpectedOutput {
        prompt: numbers(&prompt["prompt"]),
        greedy: numbers(&prompt["greedy"]),
        positions: numbers(&prompt["positions"]).into_iter().map(|position| position as usize).collect(),
        logits: tensors[prompt["logits"].as_str().unwrap()].to_vec2().unwrap(),
    };
    json["prompts"].as_array().unwrap().iter().map(read).collect()
}

/// Setup of a group.
#[derive(Debug, Clone)]
pub struct GroupSetup {
    pub source: String,
    pub world_size: usize,
    pub stages: usize,
    pub dtype: Option<DType>,
    pub quantization: Option<BlockFormat>,
    /// Devices of every rank beside the CPU.
    pub devices: Devices,
    pub num_blocks: u32,
    pub block_size: u32,
}

impl GroupSetup {
    pub fn new(fixture: &str, world_size: usize) -> Self {
        let source = fixture_folder(fixture).display().to_string();
        let (dtype, quantization) = (Some(DType::F32), None);
        let devices = Devices::default();
        Self { source, world_size, stages: 1, dtype, quantization, devices, num_blocks: 128, block_size: 8 }
    }

    pub fn grid(&self, rank: usize) -> Grid {
        Grid::new(rank, self.world_size, self.stages).unwrap()
    }

    pub fn config(&self, rank: usize) -> RunnerConfig {
        RunnerConfig {
            files: open(&self.source).unwrap(),
            dtype: self.dtype,
            quantization: self.quantization,
            grid: self.grid(rank),
            block_size: self.block_size,
            context_length: Some(256),
            max_num_batched_tokens: 512,
            max_num_seqs: 64,
            threads: 1,
            oversubscribed: true,
            isa: None,
            devices: self.devices.clone(),
            progress: Arc::default(),
        }
    }
}

enum Command {
    StartEpoch(u64, Communicators, u32),
    Step(StepPlan),
}

pub type StepResult = Result<StepWithLogits, EngineError>;

/// Ranks, a thread for each. Each answers every plan that it is sent, in order.
pub struct Ranks {
    setup: GroupSetup,
    epoch: u64,
    threads: Vec<(Sender<Command>, Receiver<StepResult>, JoinHandle<()>)>,
}

impl Ranks {
    /// Loads the model on every rank and starts epoch 1.
    pub fn start(setup: &GroupSetup) -> Self {
        let threads = (0..setup.world_size).map(|rank| spawn_rank(setup.config(rank))).collect();
        let mut ranks = Self { setup: setup.clone(), epoch: 0, threads };
        ranks.start_epoch(&Faults::default());
        ranks
    }

    /// Starts the next epoch and returns its number. `faults` apply to the links between stages if there are several
    /// stages, and to the links within the only stage if not.
    pub fn start_epoch(&mut self, faults: &Faults) -> u64 {
        self.epoch += 1;
        let GroupSetup { world_size, stages, num_blocks, .. } = self.setup;
        let tensor = world_size / stages;
        let none = Faults::default();
        let (tensor_faults, pipeline_faults) = if stages > 1 { (&none, faults) } else { (faults, &none) };
        let make_groups = |count, size, faults| -> Vec<_> {
            (0..count).map(|_| form_group(size, faults).unwrap().into_iter()).collect()
        };
        let (mut tensor_groups, mut pipelines): (Vec<_>, Vec<_>) =
            (make_groups(stages, tensor, tensor_faults), make_groups(tensor, stages, pipeline_faults));
        for (rank, (commands, ..)) in self.threads.iter().enumerate() {
            let boxed = |member: Mesh| -> Box<dyn Communicator> { Box::new(member) };
            let tensor_member = boxed(tensor_groups[rank / tensor].next().unwrap());
            let pipeline_member = boxed(pipelines[rank % tensor].next().unwrap());
            let communicators =
                Communicators { tensor: tensor_member, pipeline: (stages > 1).then_some(pipeline_member) };
            commands.send(Command::StartEpoch(self.epoch, communicators, num_blocks)).unwrap();
        }
        self.epoch
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn send(&self, plan: &StepPlan) {
        (0..self.threads.len()).for_each(|rank| self.send_to(rank, plan));
    }

    pub fn send_to(&self, rank: usize, plan: &StepPlan) {
        self.threads[rank].0.send(Command::Step(plan.clone())).unwrap();
    }

    pub fn receive_from(&self, rank: usize) -> StepResult {
        self.threads[rank].1.recv().unwrap()
    }

    /// Receives every rank's result of the oldest plan whose result was not received.
    pub fn receive_all(&self) -> Vec<StepResult> {
        (0..self.threads.len()).map(|rank| self.receive_from(rank)).collect()
    }

    /// Receives the result of the last stage, which must be the same on each of its ranks to the last bit. Other stages
    /// have no tokens and logits.
    pub fn receive(&self) -> StepWithLogits {
        let mut answers = self.receive_all().into_iter().map(Result::unwrap);
        let before = self.setup.world_size - self.setup.world_size / self.setup.stages;
        for early in answers.by_ref().take(before) {
            assert!(early.output.sampled.is_empty() && early.logits.is_empty(), "{early:?}");
        }
        let first = answers.next().unwrap();
        assert!(answers.all(|other| other == first), "ranks differ");
        first
    }

    pub fn step(&self, plan: &StepPlan) -> StepWithLogits {
        self.send(plan);
        self.receive()
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for (commands, _, thread) in self.threads.drain(..) {
            drop(commands);
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a rank panicked");
        }
    }
}

fn spawn_rank(config: RunnerConfig) -> (Sender<Command>, Receiver<StepResult>, JoinHandle<()>) {
    let (commands, inbox) = channel();
    let (outbox, answers) = channel();
    let thread = std::thread::spawn(move || {
        let mut runner = Runner::load(config, &mut |_, _| {}).unwrap();
        let read = runner.bytes_read();
        for command in inbox {
            match command {
                Command::StartEpoch(epoch, links, num_blocks) => runner.start_epoch(epoch, links, num_blocks).unwrap(),
                Command::Step(plan) => {
                    if outbox.send(runner.step_with_logits(&plan)).is_err() {
                        break;
                    }
                }
            }
        }
        assert_eq!(runner.bytes_read(), read, "weights were read again");
    });
    (commands, answers, thread)
}

/// Returns a scheduler configured like a head's.
pub fn scheduler(setup: &GroupSetup, change: impl FnOnce(&mut SchedulerConfig)) -> Scheduler {
    let mut config = SchedulerConfig {
        block_size: setup.block_size,
        max_num_batched_tokens: 512,
        context_length: 256,
        ..SchedulerConfig::default()
    };
    change(&mut config);
    Scheduler::new(config)
}

/// Returns a request for as many tokens as the fixture has.
pub fn request(id: SeqId, expected: &ExpectedOutput, sampling: SamplingParams) -> Request {
    Request {
        id,
        prompt: expected.prompt.clone(),
        priority: 0,
        cache_salt: String::new(),
        sampling,
        max_tokens: u32::try_from(expected.greedy.len()).unwrap(),
        stop_token_ids: Vec::new(),
        deadline: None,
        needs_head: false,
        prompt_logprobs: None,
    }
}

/// Runs all requests of the scheduler to their end, as far ahead as it plans. Appends the tokens to `tokens`, and
/// returns the tokens of the prompts whose log-probabilities were asked for.
pub fn run_to_end(
    scheduler: &mut Scheduler,
    ranks: &Ranks,
    tokens: &mut HashMap<SeqId, Vec<u32>>,
) -> HashMap<SeqId, Vec<PromptToken>> {
    let mut in_flight = 0;
    let mut prompts: HashMap<SeqId, Vec<PromptToken>> = HashMap::new();
    loop {
        while let Some(plan) = scheduler.next_plan() {
            ranks.send(&plan);
            in_flight += 1;
        }
        if in_flight == 0 {
            return prompts;
        }
        let output = ranks.receive().output;
        in_flight -= 1;
        for event in scheduler.complete_step(output, 1_000).unwrap() {
            match event {
                RequestOutput::Token { id, token, .. } => tokens.entry(id).or_default().push(token),
                RequestOutput::Prompt { id, tokens } => prompts.entry(id).or_default().extend(tokens),
                RequestOutput::Failed { id, reason } => panic!("sequence {id}: {reason}"),
                RequestOutput::Started { .. } | RequestOutput::Finished { .. } => {}
            }
        }
    }
}
