//! The errors of a configuration. Every message names the culprit as the user wrote it, and the remedy.

use std::path::PathBuf;

/// Longest part of a wrong value that a message repeats, in characters.
const SHOWN: usize = 120;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Message of clap: a wrong flag, or the text of `--help`. `main` prints it by `clap::Error::exit`.
    #[error(transparent)]
    Usage(#[from] clap::Error),

    /// A flag or a mode of mistral.rs that this program does not have.
    #[error("{what} is not supported: {remedy}")]
    Refused { what: String, remedy: &'static str },

    /// A value that is malformed or out of range.
    #[error("{name}={value}: {problem}")]
    Invalid { name: String, value: String, problem: String },

    /// A required setting that is missing.
    #[error("{name} is not set: {remedy}")]
    Missing { name: String, remedy: String },

    /// Two settings that exclude each other.
    #[error("{first} and {second} are both set: {remedy}")]
    Conflict { first: String, second: String, remedy: &'static str },

    /// Settings that are valid alone and do not agree.
    #[error("{left} but {right}: {remedy}")]
    Contradiction { left: String, right: String, remedy: String },

    /// A wrong file of `RING_CONFIG`.
    #[error("{name}={}: {problem}", path.display())]
    RingFile { name: &'static str, path: PathBuf, problem: String },

    /// A feature that the settings need and this build lacks.
    #[error("{what} is not in this build: {remedy}")]
    NotBuilt { what: String, remedy: String },
}

impl ConfigError {
    /// Returns the error of a wrong `value` of the flag or variable `name`. The message cuts a long value.
    pub(super) fn invalid(name: &str, value: &str, problem: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(SHOWN).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self::Invalid { name: name.to_owned(), value: shown, problem: problem.into() }
    }

    pub(super) fn missing(name: &str, remedy: impl Into<String>) -> Self {
        Self::Missing { name: name.to_owned(), remedy: remedy.into() }
    }

    pub(super) fn contradiction(left: impl Into<String>, right: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Contradiction { left: left.into(), right: right.into(), remedy: remedy.into() }
    }
}
