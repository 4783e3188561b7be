//! The errors of kernels: a wrong shape, dtype, device or argument, named, or candle's own error.

/// Everything that the kernels refuse. Each message names the tensor and what was expected of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor has another shape than the kernel needs.
    #[error("{what} has shape {got:?}; expected {expected}")]
    Shape { what: &'static str, expected: String, got: Vec<usize> },
    /// A tensor has another dtype than the kernel needs.
    #[error("{what} has dtype {got:?}; expected {expected}")]
    Dtype { what: &'static str, expected: &'static str, got: candle_core::DType },
    /// A tensor lies on another device, or in an order that the kernel cannot read.
    #[error("{what} must be a contiguous tensor on the {expected} device")]
    Placement { what: &'static str, expected: &'static str },
    /// A plain argument (a position, a block id, a count) is out of its range.
    #[error("{what}: {reason}")]
    Argument { what: &'static str, reason: String },
    /// The operating system refused memory.
    #[error("map {bytes} bytes of memory: {cause}")]
    Memory { bytes: usize, cause: std::io::Error },
    /// A logit is not a number; sampling from the row would be meaningless.
    #[error("logit {index} of the row is NaN; the weights or the dtype of the model are at fault")]
    NotANumber { index: usize },
    /// An instruction set that this machine does not have, or an unknown name.
    #[error("instruction set {name:?} cannot be used here; this machine has: {have}")]
    Isa { name: String, have: String },
    /// The operating system refused a thread.
    #[error("start a compute thread: {0}")]
    Thread(std::io::Error),
    /// Candle's own error.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result with the kernels' error.
pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn argument<T>(what: &'static str, reason: impl Into<String>) -> Result<T> {
    Err(Error::Argument { what, reason: reason.into() })
}
