//! The configuration of a rank, and the facts of the loaded model.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use candle_core::DType;
use lockstep_collectives::Grid;
use lockstep_kernels::{BlockFormat, Context, Isa, ThreadPool};

use crate::EngineError;
use crate::config::ModelConfig;
use crate::placement::Devices;
use crate::source::ModelFiles;

/// Configuration of a rank.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Files of the weights. Ranks of one process may share them.
    pub files: Arc<dyn ModelFiles>,
    /// Type that weights are kept in: f32, bf16 or f16; `None` for the type of the checkpoint.
    pub dtype: Option<DType>,
    /// Format that matrices stored in floating point are quantized to while they are loaded ("in-situ quantization",
    /// ISQ), or `None` if they keep their type. Rows that do not fill blocks go to [`BlockFormat::for_width`].
    pub quantization: Option<BlockFormat>,
    /// Place among the ranks: pipeline stage and place in its tensor-parallel group.
    pub grid: Grid,
    /// Tokens in one block of the KV cache.
    pub block_size: u32,
    /// Most positions of a sequence; `None` for the length that the model was made for.
    pub context_length: Option<u32>,
    /// Most tokens of one step.
    pub max_num_batched_tokens: u32,
    /// Most sequences of one step.
    pub max_num_seqs: u32,
    /// Threads that compute, the calling one included.
    pub threads: usize,
    /// True if more threads run on this machine than it has cores. Idle threads then sleep at once.
    pub oversubscribed: bool,
    /// Instruction set to use; `None` for the best that the machine has.
    pub isa: Option<String>,
    /// Devices beside the CPU that may hold layers.
    pub devices: Devices,
    /// Counter that increases with every layer and collective.
    pub progress: Arc<AtomicU64>,
}

impl RunnerConfig {
    pub(super) fn check(&self) -> Result<(), EngineError> {
        let bounds = [
            ("block_size", self.block_size as usize),
            ("max_num_batched_tokens", self.max_num_batched_tokens as usize),
            ("max_num_seqs", self.max_num_seqs as usize),
            ("threads", self.threads),
        ];
        match bounds.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(EngineError::Usage(format!("{name} is 0: it must be at least 1"))),
            None => Ok(()),
        }
    }

    pub(super) fn create_context(&self) -> Result<Context, EngineError> {
        let pool = ThreadPool::new(self.threads, self.oversubscribed)?;
        let isa = match &self.isa {
            Some(name) => Isa::force(name)?,
            None => Isa::detect(),
        };
        Ok(Context::new(pool, isa)?)
    }

    /// Returns the most positions of a sequence: the configured number, which is at most what the model was made for.
    pub(super) fn context_length(&self, model: &ModelConfig) -> Result<u32, EngineError> {
        let most = u32::try_from(model.context_length).unwrap_or(u32::MAX);
        match self.context_length {
            None => Ok(most),
            Some(0) => Err(EngineError::Usage("context_length is 0: it must be at least 1".into())),
            Some(asked) if asked > most => Err(EngineError::Usage(format!(
                "context_length is {asked}, and the model was made for {most} positions (max_position_embeddings)"
            ))),
            Some(asked) => Ok(asked),
        }
    }
}

/// Facts of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// Architecture, in the spelling of `config.json`.
    pub architecture: &'static str,
    /// Parameters of the whole model.
    pub parameters: u64,
    /// Type of most of the weights in memory: `f32`, `bf16`, `f16`, `q8_0`, `q4_k`, ….
    pub dtype: &'static str,
    /// Most positions of a sequence.
    pub context_length: u32,
    pub vocab_size: u32,
    pub num_layers: u32,
    /// Layers of this rank's pipeline stage, by their index in the whole model.
    pub layers: std::ops::Range<usize>,
}

pub(crate) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        DType::F16 => "f16",
        _ => "f32",
    }
}
