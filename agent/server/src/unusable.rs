//! The error of a process whose model no process can load.

/// A rank found that the model's files are at fault, for this reason. The process ends with the status of a configuration
/// that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UnusableModel(pub String);
