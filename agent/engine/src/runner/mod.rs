//! One rank: its weights, its part of the KV cache, and the sequences of the current epoch.
//!
//! One thread owns a runner. Weights stay for the life of the runner. Each epoch brings communicators, a KV cache and
//! sequences. The token that was sampled last for a sequence stays here, so that the next plan need not carry it.
//!
//! If the group has several stages, a step goes through them one after the other. Each stage takes the stream from the
//! previous one, passes it through its layers and sends it on. Then it starts the next step, while later stages compute
//! this one. The last stage samples and sends the tokens to the first stage, which embeds them.

mod config;
mod pipeline;
mod prompts;
mod sequences;

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::{CpuStorage, Storage, Tensor};
use lockstep_collectives::{Communicator, Communicators, Grid};
use lockstep_kernels::{AttentionSeq, BlockFormat, Context};
use lockstep_schedule::plan::{PlanEntry, PlanTokens, StepOutput, StepPlan};

pub(crate) use config::dtype_name;
pub use config::{ModelFacts, RunnerConfig};
use pipeline::PipelineLink;
pub(crate) use prompts::ROWS_PER_PIECE;
use sequences::{PlanLimits, Sequences, num_tokens};

use crate::EngineError;
use crate::cache::{Cache, CacheLayout};
use crate::config::ModelConfig;
use crate::layers::{Batch, Pass, Residual, RotaryEmbedding};
use crate::loader::{LoadOptions, Loader};
use crate::models::{self, Model};
use crate::placement::{PlacedLayers, Placement, Sizes, StepSize};
use crate::sampler::{Sampler, SamplingRow};
use crate::shard::Shard;
use crate::weights::Weights;

/// One rank.
pub struct Runner {
    config: RunnerConfig,
    facts: ModelFacts,
    placement: Placement,
    model: Box<dyn Model>,
    cache: Cache,
    hidden_size: usize,
    bytes_read: u64,
    epoch: Option<Epoch>,
    last_epoch: u64,
}

/// State that ends with an epoch.
struct Epoch {
    number: u64,
    next_step: u64,
    tensor: Box<dyn Communicator>,
    pipeline: PipelineLink,
    sequences: Sequences,
}

/// Result of a step, with the logits that it was sampled from.
#[derive(Debug, Clone, PartialEq)]
pub struct StepWithLogits {
    pub output: StepOutput,
    /// Logits of the whole vocabulary, one row for each sampling entry, in the plan's order. Empty on all stages but
    /// the last.
    pub logits: Vec<Vec<f32>>,
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Runner").field("config", &self.config).field("facts", &self.facts).finish()
    }
}

impl Runner {
    /// Loads this rank's part of the weights. Calls `progress` often, with the bytes read and the bytes in all. The
    /// total is an estimate until the last call.
    ///
    /// # Errors
    /// Whatever is wrong with the files or with the configuration, named.
    pub fn load(config: RunnerConfig, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, EngineError> {
        config.check()?;
        let model_config = ModelConfig::from_files(config.files.as_ref())?;
        let context_length = config.context_length(&model_config)?;
        let shard = Shard::new(&model_config, config.grid)?;
        let context = config.create_context()?;
        let weights = Weights::open(Arc::clone(&config.files))?;
        let dtype = config.dtype.unwrap_or_else(|| weights.main_dtype());
        let layout = CacheLayout::new(&model_config, &shard, config.block_size as usize, dtype);
        let placement = place_layers(&config, &model_config, &shard, &weights, &layout, &context)?;
        let options = LoadOptions {
            weights: &weights,
            placement: &placement,
            shard: &shard,
            dtype,
            quantization: config.quantization,
            progress: RefCell::new(&mut *progress),
            bytes_total: weights.bytes_per_rank(config.grid.world_size()),
        };
        let model = models::load(&Loader::new(&options), &model_config)?;
        let bytes_read = weights.bytes_read();
        progress(bytes_read, bytes_read);
        let ropes = model_config.ropes.iter().map(|rope| RotaryEmbedding::new(rope, context_length as usize)).collect();
        let facts = ModelFacts {
            architecture: model_config.architecture.name(),
            parameters: weights.parameters(model_config.tie_word_embeddings),
            dtype: config
                .quantization
                .map(BlockFormat::name)
                .or_else(|| weights.main_format())
                .unwrap_or_else(|| dtype_name(dtype)),
            context_length,
            vocab_size: u32::try_from(model_config.vocab_size).unwrap_or(u32::MAX),
            num_layers: u32::try_from(model_config.num_layers).unwrap_or(u32::MAX),
            layers: shard.layers.clone(),
        };
        let contexts = shard.layers.map(|layer| placement.context_of(layer).clone()).collect();
        let (cache, hidden_size) = (Cache::new(layout, ropes, contexts), model_config.hidden_size);
        Ok(Self { config, facts, placement, model, cache, hidden_size, bytes_read, epoch: None, last_epoch: 0 })
    }

    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// Returns the place among the ranks.
    pub fn grid(&self) -> Grid {
        self.config.grid
    }

    /// Returns the bytes that one block of the KV cache takes on this rank, in all layers of its stage together.
    pub fn bytes_per_block(&self) -> u64 {
        self.cache.layout().bytes_per_layer() * self.facts.layers.len() as u64
    }

    /// Returns the devices of the stage's layers, and their free memory.
    ///
    /// # Errors
    /// The error of a device that cannot say how much memory it has.
    pub fn placed_layers(&self) -> Result<Vec<PlacedLayers>, EngineError> {
        self.placement.runs(self.cache.layout().bytes_per_layer())
    }

    /// Returns the bytes of weights that this rank has read since it was loaded.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Starts a new epoch: forgets every sequence, takes the communicators, and allocates the KV cache anew if its size
    /// changes.
    ///
    /// # Errors
    /// [`EngineError::Usage`] for an epoch that does not grow, a communicator of another group or no blocks; the errors
    /// of allocating the cache.
    pub fn start_epoch(
        &mut self,
        epoch: u64,
        communicators: impl Into<Communicators>,
        num_blocks: u32,
    ) -> Result<(), EngineError> {
        self.end_epoch();
        if epoch <= self.last_epoch {
            return Err(EngineError::Usage(format!("epoch {epoch} does not follow epoch {}", self.last_epoch)));
        }
        let Communicators { tensor, pipeline } = communicators.into();
        let grid = self.config.grid;
        if tensor.group() != grid.tensor() {
            let (given, own) = (tensor.group(), grid.tensor());
            return Err(EngineError::Usage(format!("a communicator of {given:?} was given to {own:?}")));
        }
        let pipeline = PipelineLink::new(grid.pipeline(), pipeline)?;
        if num_blocks == 0 {
            return Err(EngineError::Usage("a group needs at least one KV block; give it more memory".into()));
        }
        self.cache.resize(num_blocks as usize)?;
        self.last_epoch = epoch;
        self.epoch = Some(Epoch { number: epoch, next_step: 1, tensor, pipeline, sequences: Sequences::default() });
        Ok(())
    }

    /// Ends the epoch: drops the communicators and every sequence, keeps the weights.
    pub fn end_epoch(&mut self) {
        self.epoch = None;
    }

    /// Executes this stage's part of one plan. The last stage returns what was sampled and the log-probabilities of
    /// prompts, the others an output without tokens. A plan that is refused changes nothing. Any other error ends the epoch, and the group must be formed
    /// anew.
    ///
    /// # Errors
    /// [`EngineError::NotFormed`], [`EngineError::Plan`], [`EngineError::Collective`], [`EngineError::Logits`].
    pub fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, EngineError> {
        self.run(plan, false).map(|step| step.output)
    }

    /// Executes one plan like [`Runner::step`], and gathers the logits on every rank of the last stage, for tests and
    /// measurements. All ranks must call it for the same step.
    ///
    /// # Errors
    /// Those of [`Runner::step`].
    pub fn step_with_logits(&mut self, plan: &StepPlan) -> Result<StepWithLogits, EngineError> {
        self.run(plan, true)
    }

    fn run(&mut self, plan: &StepPlan, with_logits: bool) -> Result<StepWithLogits, EngineError> {
        let limits = self.limits();
        let epoch = self.epoch.as_mut().ok_or(EngineError::NotFormed)?;
        epoch.check(plan, &limits).map_err(|reason| EngineError::Plan {
            epoch: plan.epoch,
            step: plan.step,
            reason,
        })?;
        epoch.sequences.apply(plan);
        let result = self.execute(plan, with_logits);
        match (&result, self.epoch.as_mut()) {
            (Ok(step), Some(epoch)) => {
                epoch.sequences.finish(plan, step.output.sampled.iter().map(|sampled| sampled.token));
                epoch.pipeline.record_step(plan);
                epoch.next_step += 1;
            }
            _ => self.end_epoch(),
        }
        result
    }

    fn limits(&self) -> PlanLimits {
        PlanLimits {
            num_blocks: u32::try_from(self.cache.num_blocks()).unwrap_or(u32::MAX),
            block_size: self.config.block_size,
            context_length: self.facts.context_length,
            vocab_size: self.facts.vocab_size,
            max_num_batched_tokens: self.config.max_num_batched_tokens,
            max_num_seqs: self.config.max_num_seqs,
        }
    }

    /// Computes a plan whose sequences are up to date.
    fn execute(&mut self, plan: &StepPlan, with_logits: bool) -> Result<StepWithLogits, EngineError> {
        let epoch = self.epoch.as_mut().ok_or(EngineError::NotFormed)?;
        let mut step = StepWithLogits {
            output: StepOutput { epoch: plan.epoch, step: plan.step, ..StepOutput::default() },
            logits: Vec::new(),
        };
        if plan.entries.is_empty() {
            return Ok(step);
        }
        let Epoch { tensor, pipeline, sequences, .. } = epoch;
        let grid = self.config.grid;
        if grid.is_first_stage() {
            pipeline.fetch_tokens(plan, sequences)?;
        }
        let batch = build_batch(plan, sequences, grid.is_first_stage());
        let communicator = tensor.as_mut();
        let (context, progress) = (self.placement.first(), &*self.config.progress);
        let mut pass = Pass { context, batch: &batch, communicator, progress };
        let mut stream = if grid.is_first_stage() {
            self.model.embed(&mut pass)?
        } else {
            Residual::new(pipeline.receive([plan.num_tokens(), self.hidden_size])?)
        };
        pass.tick();
        self.model.forward_layers(&mut pass, &mut stream, &mut self.cache)?;
        if !grid.is_last_stage() {
            with_host_values(&stream.into_sum()?, |stream| pipeline.send(stream))?;
            pass.tick();
            return Ok(step);
        }
        let sampler = Sampler::new(grid.tensor(), self.facts.vocab_size as usize);
        let (last_rows, rows) = select_sampling_rows(plan, sequences);
        if !rows.is_empty() {
            let last_rows = Tensor::new(last_rows, stream.device())?;
            let logits = self.model.compute_logits(&mut pass, stream.select_rows(&last_rows)?)?;
            with_host_values(&logits, |logits| {
                step.output.sampled = sampler.sample(&rows, logits, pass.communicator)?;
                if with_logits {
                    let all: Vec<usize> = (0..rows.len()).collect();
                    step.logits = sampler.gather_rows(&all, logits, pass.communicator)?;
                }
                Ok(())
            })?;
            pipeline.send_tokens(&step.output.sampled)?;
        }
        step.output.prompts = prompts::score_targets(plan, &stream, (&*self.model, sampler), &mut pass)?;
        pass.tick();
        Ok(step)
    }
}

/// Decides which device holds each layer of this rank's stage.
fn place_layers(
    config: &RunnerConfig,
    model: &ModelConfig,
    shard: &Shard,
    weights: &Weights,
    layout: &CacheLayout,
    context: &Context,
) -> Result<Placement, EngineError> {
    let RunnerConfig { max_num_batched_tokens: tokens, max_num_seqs: seqs, .. } = *config;
    let sizes = Sizes::estimate(weights, model, shard, layout.dtype, config.quantization);
    let step = StepSize::estimate(model, shard, config.context_length(model)?, tokens, seqs);
    let per_position = layout.bytes_per_layer().div_ceil(layout.block_size as u64);
    Placement::new(&config.devices, context, shard.layers.clone(), &sizes, per_position, &step)
}

impl Epoch {
    fn check(&self, plan: &StepPlan, limits: &PlanLimits) -> Result<(), String> {
        if plan.epoch != self.number {
            return Err(format!("this rank is in epoch {}", self.number));
        }
        if plan.step != self.next_step {
            return Err(format!("step {} is due", self.next_step));
        }
        self.sequences.check(plan, limits)
    }
}

/// Returns the tokens of a plan in the order of its rows, with their ids if this stage embeds them.
fn build_batch<'a>(plan: &StepPlan, sequences: &'a Sequences, embeds: bool) -> Batch<'a> {
    let mut batch = Batch::default();
    for entry in &plan.entries {
        let Some(sequence) = sequences.get(entry.seq) else { continue };
        let first_row = batch.positions.len();
        match &entry.tokens {
            _ if !embeds => {}
            PlanTokens::Given(ids) => batch.ids.extend(ids),
            PlanTokens::LastSampled => batch.ids.extend(sequence.last_sampled.and_then(|last| last.token)),
        }
        batch.positions.extend(entry.position..entry.position + num_tokens(entry));
        batch.seqs.push(AttentionSeq {
            first_row,
            rows: entry.tokens.len(),
            position: entry.position as usize,
            block_table: &sequence.block_table,
        });
    }
    batch
}

/// Returns, for each sampling entry, the index of its last row in the batch and the parameters of its choice.
fn select_sampling_rows<'a>(plan: &'a StepPlan, sequences: &'a Sequences) -> (Vec<u32>, Vec<SamplingRow<'a>>) {
    let mut end = 0;
    let ends = plan.entries.iter().map(|entry| {
        end += num_tokens(entry);
        (entry, end - 1)
    });
    let row = |(entry, last_row): (&'a PlanEntry, u32)| {
        let sequence = sequences.get(entry.seq)?;
        let position = entry.position + num_tokens(entry);
        let counts = sequence.counts.as_ref();
        let allowed = entry.allowed.as_ref();
        Some((last_row, SamplingRow { seq: entry.seq, params: &sequence.params, counts, allowed, position }))
    };
    ends.filter(|(entry, _)| entry.sample).filter_map(row).unzip()
}

/// Calls `use_values` with the values of a contiguous f32 tensor. The values are copied only if the tensor is not on
/// the host.
fn with_host_values<T>(
    tensor: &Tensor,
    use_values: impl FnOnce(&[f32]) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => use_values(&values[start..end]),
        _ => use_values(&tensor.flatten_all()?.to_vec1::<f32>()?),
    }
}
