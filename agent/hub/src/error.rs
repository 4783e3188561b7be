//! The errors between a hub and the cache. Every message names the file or the model, and the remedy.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_engine::source::format_bytes;
use lockstep_proto::names::hub;
use reqwest::StatusCode;

use crate::disk::free_bytes;

/// Error of resolving a model of a hub or of fetching its files.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("no folder for downloads is known: neither HF_HOME nor HOME is set; set HF_HOME to a folder")]
    NoCache,
    #[error("set up TLS: {0}")]
    Tls(String),
    #[error("read the token in {}: {reason}", path.display())]
    Token { path: PathBuf, reason: String },
    #[error(
        "{what}: the hub requires a token ({status}); set {} to a token that may read the model, or correct the model's \
         name",
        hub::TOKEN
    )]
    Unauthorized { what: String, status: StatusCode },
    #[error(
        "{what}: the token may not read this model ({status}{note}); accept the model's terms on its page with the account \
         of {}, or ask the model's owner for access",
        hub::TOKEN
    )]
    Forbidden { what: String, status: StatusCode, note: String },
    #[error("{what}: the hub has none of that name ({note}); correct the model's name or its revision")]
    NotFound { what: String, note: String },
    #[error("{what}: {reason}, after {tries} tries; check that this machine can reach {endpoint}")]
    Unreachable { what: String, reason: String, tries: u32, endpoint: String },
    #[error("{what}: the hub answers {status}{note}; check the model's name and the address of the hub")]
    Status { what: String, status: StatusCode, note: String },
    #[error("{what}: the hub sent a wrong redirect: {reason}; check the address of the hub")]
    Redirect { what: String, reason: String },
    #[error("{what}: the host sent a wrong answer: {reason}; try again, or report it to the operator of the hub")]
    WrongAnswer { what: String, reason: String },
    #[error(
        "{file} is not what the hub lists: its digest is {found}, and the hub lists {expected}, also at a second try; \
         try again later, or report it to the owner of the model"
    )]
    Digest { file: String, expected: String, found: String },
    #[error(
        "{what} is not in the cache {}, and {}=1 forbids to ask the hub: fetch the model first, or unset {}",
        cache.display(), hub::OFFLINE, hub::OFFLINE
    )]
    Offline { what: String, cache: PathBuf },
    #[error(
        "the disk of {} is full: {} are needed, {} are free; make room, or set {} to a folder on a larger disk",
        path.display(), format_bytes(*needed), format_bytes(*free), hub::HOME
    )]
    Full { path: PathBuf, needed: u64, free: u64 },
    #[error("{} may not be written: {cause}; let this process write there, or set {} to a folder that it may write", path.display(), hub::HOME)]
    NotWritable { path: PathBuf, cause: std::io::Error },
    #[error("{}: {cause}; check the folder of the cache", path.display())]
    Io { path: PathBuf, cause: std::io::Error },
    #[error("the download ended: {0}")]
    Ended(String),
}

impl HubError {
    /// Returns the error of the operating system for `path`, a path of the cache.
    pub(crate) fn disk(path: &Path, cause: std::io::Error) -> Self {
        let path = path.to_owned();
        match cause.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                let free = free_bytes(&path);
                Self::Full { path, needed: 0, free }
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::NotWritable { path, cause },
            _ => Self::Io { path, cause },
        }
    }

    /// Returns true if the client did not reach the hub. The caller may then use the cache.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Error of one attempt of a request.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// Another attempt may succeed.
    Retry {
        reason: String,
        /// Pause before the next attempt, if the hub asks for one.
        after: Option<Duration>,
    },
    /// No further attempt can succeed.
    Final(HubError),
}

impl AttemptError {
    pub(crate) fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into(), after: None }
    }
}

impl From<HubError> for AttemptError {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_disk_names_the_path_and_the_remedy() {
        let path = Path::new("/tmp");
        for (kind, parts) in [
            (ErrorKind::StorageFull, ["the disk of /tmp is full", "HF_HOME"]),
            (ErrorKind::QuotaExceeded, ["the disk of /tmp is full", "HF_HOME"]),
            (ErrorKind::PermissionDenied, ["/tmp may not be written", "HF_HOME"]),
            (ErrorKind::ReadOnlyFilesystem, ["/tmp may not be written", "HF_HOME"]),
            (ErrorKind::NotADirectory, ["/tmp: ", "not a directory"]),
        ] {
            let message = HubError::disk(path, kind.into()).to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}
