//! One rank: its weights, its share of the KV cache, and the sequences of the current epoch.
//!
//! A runner is owned by one thread. Weights stay for its life; a communicator, a KV cache and sequences come with each
//! epoch.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use candle_core::DType;
use lockstep_collectives::{Communicator, Group};
use lockstep_schedule::plan::{StepOutput, StepPlan};

use crate::EngineError;
use crate::config::ModelConfig;
use crate::shard::Shard;
use crate::source::ModelFiles;
use crate::weights::Weights;

/// Type that weights are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DTypeChoice {
    /// The checkpoint's.
    #[default]
    Auto,
    F32,
    Bf16,
    F16,
}

impl std::str::FromStr for DTypeChoice {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        match name {
            "" | "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            other => Err(EngineError::Usage(format!("dtype `{other}` is not one of auto, f32, bf16, f16"))),
        }
    }
}

/// How a rank is to be built.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Where the weights are; ranks of one process may share it.
    pub files: Arc<dyn ModelFiles>,
    pub dtype: DTypeChoice,
    /// Place in the tensor-parallel group.
    pub group: Group,
    /// Tokens in one block of the KV cache.
    pub block_size: u32,
    /// Most positions of a sequence; `None`: what the model was made for.
    pub context_length: Option<u32>,
    /// Most tokens of one step.
    pub max_num_batched_tokens: u32,
    /// Most sequences of one step.
    pub max_num_seqs: u32,
    /// Threads that compute, the calling one included.
    pub threads: usize,
    /// More threads run on this machine than it has cores: idle ones sleep at once.
    pub oversubscribed: bool,
    /// Instruction set to use; `None`: the best that the machine has.
    pub isa: Option<String>,
    /// Moves with every layer and collective.
    pub progress: Arc<AtomicU64>,
}

/// What a loaded model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// As `config.json` spells it.
    pub architecture: &'static str,
    /// Of the whole model.
    pub parameters: u64,
    /// Type of the weights in memory: `f32`, `bf16`, `f16`.
    pub dtype: &'static str,
    /// Most positions of a sequence.
    pub context_length: u32,
    pub vocab_size: u32,
    pub num_layers: u32,
}

/// One rank.
#[derive(Debug)]
pub struct Runner {
    config: RunnerConfig,
    facts: ModelFacts,
    bytes_read: u64,
}

impl Runner {
    /// Reads this rank's part of the weights. `progress` hears bytes read and bytes in all, often.
    ///
    /// # Errors
    /// Whatever is wrong with the files or with the configuration, named.
    pub fn load(config: RunnerConfig, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, EngineError> {
        let model = ModelConfig::read(config.files.as_ref())?;
        Shard::new(&model, config.group)?;
        let weights = Weights::open(Arc::clone(&config.files))?;
        progress(0, weights.parameters());
        let facts = ModelFacts {
            architecture: model.architecture.name(),
            parameters: weights.parameters(),
            dtype: dtype_name(model.dtype.unwrap_or(DType::F32)),
            context_length: config.context_length.unwrap_or(0),
            vocab_size: u32::try_from(model.vocab_size).unwrap_or(u32::MAX),
            num_layers: u32::try_from(model.num_layers).unwrap_or(u32::MAX),
        };
        Ok(Self { config, facts, bytes_read: weights.bytes_read() })
    }

    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// Place in the tensor-parallel group.
    pub fn group(&self) -> Group {
        self.config.group
    }

    /// Bytes that one block of the KV cache takes on this rank, all layers together.
    pub fn bytes_per_block(&self) -> u64 {
        0
    }

    /// Bytes of weights that this rank has read since it was loaded.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Enters a new epoch: forgets every sequence, takes the communicator, and makes the KV cache anew where its size
    /// changes.
    ///
    /// # Errors
    /// [`EngineError::Usage`] for an epoch that does not grow, a communicator of another group or no blocks.
    pub fn form(
        &mut self,
        _epoch: u64,
        _communicator: Box<dyn Communicator>,
        _num_blocks: u32,
    ) -> Result<(), EngineError> {
        Err(EngineError::NotFormed)
    }

    /// Leaves the epoch: drops the communicator and every sequence, keeps the weights.
    pub fn unform(&mut self) {}

    /// Executes one plan. A plan that is refused changes nothing; after any other error the group must be formed anew.
    ///
    /// # Errors
    /// [`EngineError::NotFormed`], [`EngineError::Plan`], [`EngineError::Collective`], [`EngineError::Logits`].
    pub fn step(&mut self, _plan: &StepPlan) -> Result<StepOutput, EngineError> {
        Err(EngineError::NotFormed)
    }
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        _ => "f32",
    }
}
