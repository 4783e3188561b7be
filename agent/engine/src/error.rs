//! Errors of a rank. Each names the culprit, and the remedy if there is one.

use lockstep_collectives::CollectiveError;
use lockstep_kernels::BlockFormat;
use lockstep_schedule::plan::SeqId;

use crate::config::ConfigError;

/// Errors of reading a model, loading it, and stepping it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A model source cannot be read here.
    #[error("model source `{origin}`: {reason}")]
    Source { origin: String, reason: String },
    /// A file that a model must have is missing.
    #[error("{file} is missing in {origin}: a model folder holds config.json, tokenizer.json and *.safetensors")]
    Missing { file: String, origin: String },
    /// The operating system failed to read a file.
    #[error("read {file}: {cause}")]
    Io { file: String, cause: std::io::Error },
    /// A file ends before the data that its header promises.
    #[error("{file} is cut short: it has {size} bytes, {expected} were expected; copy or download it again")]
    Truncated { file: String, size: u64, expected: u64 },
    /// A file is not the one that the head resolved.
    #[error("{file} is not the file that the head resolved: {reason}; every node needs the same model files")]
    Changed { file: String, reason: String },
    /// A file's content does not have the format that its name promises.
    #[error("{file}: {reason}")]
    Format { file: String, reason: String },
    /// A model's configuration has a value that no model can be made of.
    #[error("{file}: {cause}")]
    Config { file: String, cause: ConfigError },
    /// A model's family is not built in.
    #[error("architecture `{found}` is not supported; supported: {supported}")]
    Architecture { found: String, supported: String },
    /// A tensor that the architecture needs is in no file.
    #[error("tensor `{tensor}` is in none of the weight files of {origin}")]
    MissingTensor { tensor: String, origin: String },
    /// The weights are not those that the configuration asks for.
    #[error("the weights of `{origin}` do not fit its configuration: {faults}")]
    Unloadable { origin: String, faults: String },
    /// A tensor has another shape than the configuration asks for.
    #[error("tensor `{tensor}` in {file} has shape {found:?}, config.json asks for {expected:?}")]
    Shape { tensor: String, file: String, expected: Vec<usize>, found: Vec<usize> },
    /// A tensor has a type that is not read.
    #[error("tensor `{tensor}` in {file} is {found}; {}", supported_types())]
    Dtype { tensor: String, file: String, found: String },
    /// The model cannot be split over that many ranks.
    #[error("{architecture} cannot be split over {world_size} ranks: {reason}; the largest world size is {largest}")]
    WorldSize { architecture: String, world_size: usize, largest: usize, reason: String },
    /// The model has too few layers for that many stages.
    #[error("a model of {layers} layers cannot be split into {stages} pipeline stages: use at most {layers}")]
    Stages { stages: usize, layers: usize },
    /// A rank's devices have too little memory for its layers. `needed` and `free` are bytes.
    #[error(
        "{fit} of {layers} layers fit on this rank's devices: {} MiB are needed, a small KV cache included, and {} MiB \
         are free; quantize (--isq), shorten --context-length or --max-num-batched-tokens, use more devices, or keep \
         the other layers on the CPU (MISTRALRS_NO_NCCL=1)",
        .needed >> 20,
        .free >> 20
    )]
    DeviceMemory { fit: usize, layers: usize, needed: u64, free: u64 },
    /// The runner was configured with a value that it cannot use.
    #[error("{0}")]
    Usage(String),
    /// A plan contradicts itself, the configuration, or the sequences that this rank holds.
    #[error("step {step} of epoch {epoch} refused: {reason}")]
    Plan { epoch: u64, step: u64, reason: String },
    /// A step was asked for before a group was formed.
    #[error("no group is formed: a communicator must be given first")]
    NotFormed,
    /// The model computed a logit that is not finite.
    #[error("the logits of sequence {seq} hold a value that is not finite (at rank {rank})")]
    Logits { seq: SeqId, rank: usize },
    /// A collective failed; the group must be formed anew.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// A kernel refused its arguments or failed.
    #[error(transparent)]
    Kernel(#[from] lockstep_kernels::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl EngineError {
    /// Returns true if the model's files are at fault, so that no other try with them can succeed.
    #[must_use]
    pub fn is_fault_of_model(&self) -> bool {
        match self {
            Self::Format { .. }
            | Self::Config { .. }
            | Self::Architecture { .. }
            | Self::MissingTensor { .. }
            | Self::Unloadable { .. }
            | Self::Shape { .. }
            | Self::Dtype { .. } => true,
            // While a model loads, the arguments of kernels are its weights.
            Self::Kernel(error) => matches!(error, lockstep_kernels::Error::Argument { .. }),
            Self::Source { .. }
            | Self::Missing { .. }
            | Self::Io { .. }
            | Self::Truncated { .. }
            | Self::Changed { .. }
            | Self::WorldSize { .. }
            | Self::Stages { .. }
            | Self::DeviceMemory { .. }
            | Self::Usage(_)
            | Self::Plan { .. }
            | Self::NotFormed
            | Self::Logits { .. }
            | Self::Collective(_)
            | Self::Tensor(_) => false,
        }
    }

    /// Returns the error for a file whose content is wrong.
    pub(crate) fn format(file: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Format { file: file.into(), reason: reason.into() }
    }
}

/// Returns the types that a tensor may have, and the remedy if it has another, for a message.
pub(crate) fn supported_types() -> String {
    let blocks = BlockFormat::ALL.map(|format| format.name().to_uppercase()).join(", ");
    format!(
        "supported: F32, BF16 and F16, and for the matrices of a GGUF file {blocks}: take a file of the same model in one \
         of these"
    )
}
