//! Errors between a hub and the cache. Every message names the file or the model, and the remedy.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_proto::names::hub;
use reqwest::StatusCode;

use crate::disk::free_bytes;

/// Error of resolving a model or of fetching its files.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("there is no place for downloads: neither HF_HOME nor HOME is set; set HF_HOME to a folder")]
    NoCache,
    #[error("set up TLS: {0}")]
    Tls(String),
    #[error("read the token in {}: {reason}", path.display())]
    Token { path: PathBuf, reason: String },
    #[error(
        "{what}: the hub wants to know who asks ({status}); set {} to a token that may read it, or correct the model's \
         name",
        hub::TOKEN
    )]
    Unauthorized { what: String, status: StatusCode },
    #[error(
        "{what}: this token may not read it ({status}{note}); accept the model's terms on its page with the account of \
         {}, or ask its owner",
        hub::TOKEN
    )]
    Forbidden { what: String, status: StatusCode, note: String },
    #[error("{what}: the hub has none of that name ({note}); correct the model's name or its revision")]
    NotFound { what: String, note: String },
    #[error("{what}: {reason}, after {tries} tries; see whether {endpoint} can be reached from this machine")]
    Unreachable { what: String, reason: String, tries: u32, endpoint: String },
    #[error("{what}: the hub answers {status}{note}")]
    Status { what: String, status: StatusCode, note: String },
    #[error("{what}: the answer leads astray: {reason}")]
    Redirect { what: String, reason: String },
    #[error("{what}: the answer cannot be right: {reason}")]
    Answer { what: String, reason: String },
    #[error("{file} is not what the hub lists: its digest is {found}, {expected} was promised, also at a second try")]
    Digest { file: String, expected: String, found: String },
    #[error("{what} is not in the cache {}, and {}=1 forbids to ask the hub: fetch it first, or unset that", cache.display(), hub::OFFLINE)]
    Offline { what: String, cache: PathBuf },
    #[error(
        "the disk of {} is full: {} are wanted, {} are free; make room, or set {} to a folder on a larger disk",
        path.display(), shown(*wanted), shown(*free), hub::HOME
    )]
    Full { path: PathBuf, wanted: u64, free: u64 },
    #[error("{} may not be written: {cause}; let this process write there, or set {} to a folder that it may", path.display(), hub::HOME)]
    Forbids { path: PathBuf, cause: std::io::Error },
    #[error("{}: {cause}", path.display())]
    Io { path: PathBuf, cause: std::io::Error },
    #[error("the download ended: {0}")]
    Ended(String),
}

impl HubError {
    /// Returns the error for the operating system's error about `path`, a place for downloads.
    pub(crate) fn disk(path: &Path, cause: std::io::Error) -> Self {
        let path = path.to_owned();
        match cause.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                let free = free_bytes(&path);
                Self::Full { path, wanted: 0, free }
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::Forbids { path, cause },
            _ => Self::Io { path, cause },
        }
    }

    /// Returns true if the hub cannot be reached. The cache may then serve in its place.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// An attempt that failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another attempt may succeed, after the time that the hub asked for, if any.
    Again {
        reason: String,
        after: Option<Duration>,
    },
    Final(HubError),
}

impl Failure {
    pub(crate) fn again(reason: impl Into<String>) -> Self {
        Self::Again { reason: reason.into(), after: None }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// Formats a number of bytes for people.
pub(crate) fn shown(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_named_with_what_helps() {
        let path = Path::new("/tmp");
        for (kind, parts) in [
            (ErrorKind::StorageFull, ["the disk of /tmp is full", "HF_HOME"]),
            (ErrorKind::QuotaExceeded, ["the disk of /tmp is full", "HF_HOME"]),
            (ErrorKind::PermissionDenied, ["/tmp may not be written", "HF_HOME"]),
            (ErrorKind::ReadOnlyFilesystem, ["/tmp may not be written", "HF_HOME"]),
            (ErrorKind::NotADirectory, ["/tmp: ", "not a directory"]),
        ] {
            let told = HubError::disk(path, kind.into()).to_string();
            assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        }
    }
}
