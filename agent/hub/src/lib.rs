//! Models of a hub: `hf://org/name`, and one GGUF file of it by a tag or its name.
//!
//! The head asks the hub once for a [`Snapshot`] of a revision: its commit, and its files with their sizes and digests. The
//! head fetches only the files that it reads itself ([`RemoteFiles`]): the whole configuration and tokenizer, and the
//! headers of the weights. A GGUF file has all of these in its header. Each node fetches the files that its ranks read, at the same commit, and checks their digests.
//! So all nodes load the same files, even if the branch moves.
//!
//! All files go through the cache of Hugging Face's own libraries, in its layout. [`store`] describes the layout.
//!
//! Invariants: a file in the cache under a digest has that digest. Memory is bounded, whatever a host answers. Every
//! request has a bounded number of attempts. The client sends the token only to the hub's own address.

#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod access;
mod client;
mod content;
mod disk;
mod download;
mod error;
mod fetch;
mod listing;
mod model;
mod partial;
mod progress;
mod remote;
mod retry;
mod store;

use std::path::PathBuf;
use std::time::Duration;

pub use access::{DEFAULT_ENDPOINT, HubConfig, Token, TokenSource, parse_endpoint};
use client::Client;
pub use content::ContentId;
use download::Download;
pub use error::HubError;
pub use listing::{HubFile, Snapshot};
use lockstep_proto::backoff::Backoff;
pub use model::{HubModel, Repository, Revision};
pub use progress::{Meter, Progress, ProgressLog};
pub use remote::RemoteFiles;
pub use retry::RetryPolicy;
use store::Store;

/// Bounds of downloads.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a piece. The process writes whole pieces, so a crash loses less than a piece of each connection.
    pub piece_bytes: u64,
    /// Pieces that one request asks for.
    pub pieces_per_request: u64,
    /// Most connections at a time. Each has one piece in memory.
    pub connections: usize,
    /// Time without data after which a connection counts as cut.
    pub idle_timeout: Duration,
    /// Interval at which a process checks for a file that another process fetches.
    pub poll_interval: Duration,
    pub retry: RetryPolicy,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            piece_bytes: 4 << 20,
            pieces_per_request: 16,
            connections: 8,
            idle_timeout: Duration::from_secs(30),
            poll_interval: Duration::from_millis(500),
            retry: RetryPolicy {
                tries: 6,
                pauses: Backoff::new(Duration::from_millis(500), Duration::from_secs(20)),
                longest_requested: Duration::from_secs(60),
            },
        }
    }
}

/// A hub and the cache in front of it.
#[derive(Debug)]
pub struct Hub {
    client: Client,
    cache: PathBuf,
    offline: bool,
}

impl Hub {
    /// Creates a client of the hub.
    ///
    /// # Errors
    /// The configuration has no cache, or the token file cannot be read.
    pub fn new(config: &HubConfig, limits: Limits) -> Result<Self, HubError> {
        let cache = config.cache.clone().ok_or(HubError::NoCache)?;
        Ok(Self { client: Client::new(config, limits)?, cache, offline: config.offline })
    }

    fn store(&self, repository: &Repository) -> Store {
        Store::new(self.cache.clone(), repository)
    }

    /// Returns the current snapshot of `model`. If the client is offline or cannot reach the hub, it returns the last snapshot
    /// in the cache.
    ///
    /// # Errors
    /// The hub refuses the request. Or the client did not reach the hub, and the cache has no snapshot either.
    pub async fn resolve(&self, model: &HubModel) -> Result<Snapshot, HubError> {
        let store = self.store(&model.repository);
        if self.offline {
            let what = format!("hf://{} at {}", model.repository, model.revision.as_str());
            return cached_snapshot(&store, model)?.ok_or(HubError::Offline { what, cache: self.cache.clone() });
        }
        match listing::fetch_snapshot(&self.client, model).await {
            Ok(snapshot) => {
                store.write_ref(&model.revision, &snapshot.commit)?;
                Ok(snapshot)
            }
            Err(error) if error.is_unreachable() => match cached_snapshot(&store, model)? {
                Some(snapshot) => {
                    tracing::warn!(%error, commit = snapshot.commit, "cannot reach the hub: using the last commit in the cache");
                    Ok(snapshot)
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Fetches `files` of `commit` into the cache, and returns the folder that holds them under their names.
    ///
    /// # Errors
    /// A file cannot be fetched. The error names the first such file.
    pub async fn download(
        &self,
        repository: &Repository,
        commit: &str,
        files: &[HubFile],
        meter: &Meter,
    ) -> Result<PathBuf, HubError> {
        let (store, client, offline) = (&self.store(repository), &self.client, self.offline);
        Download { client, store, repository, commit, offline, meter }.fetch(files).await
    }
}

/// Returns the snapshot of `model` in the cache, if the cache has any file of it.
fn cached_snapshot(store: &Store, model: &HubModel) -> Result<Option<Snapshot>, HubError> {
    let commit = model.revision.commit().map(str::to_owned).or_else(|| store.read_ref(&model.revision));
    let Some(commit) = commit else { return Ok(None) };
    let files = store.list_files(&commit)?;
    Ok((!files.is_empty()).then_some(Snapshot { commit, files }))
}
