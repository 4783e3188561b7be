//! Models of a hub: `hf://org/name`.
//!
//! The head resolves a revision once: to its commit, and to the files with their sizes and digests ([`Snapshot`]). The
//! head fetches configuration and tokenizer whole, and only the headers of the weights ([`RemoteFiles`]). Each node
//! fetches the files that its ranks read, at that commit, and checks them by those digests. So a branch that moves
//! meanwhile changes no node.
//!
//! Everything goes through the cache that Hugging Face's own libraries use, in their layout; [`store`] says how.
//!
//! Invariants: a file in the cache under a digest has that digest. Memory is bounded whatever a host sends. Each
//! request is given up after a while. The token is sent to the hub's own address only.

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
pub use progress::{Log, Meter, Progress};
pub use remote::RemoteFiles;
pub use retry::RetryPolicy;
use store::Store;

/// Bounds of downloads.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that are written at once. A process that dies loses at most so many bytes of each connection.
    pub piece: u64,
    /// Pieces that one request asks for.
    pub run_pieces: u64,
    /// Connections at a time, each with one piece in memory.
    pub connections: usize,
    /// Time without a byte after which a connection counts as cut.
    pub silence: Duration,
    /// Time between two looks at a file that another process fetches.
    pub look: Duration,
    pub retry: RetryPolicy,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            piece: 4 << 20,
            run_pieces: 16,
            connections: 8,
            silence: Duration::from_secs(30),
            look: Duration::from_millis(500),
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
    /// Sets up the client. Nothing is dialled.
    ///
    /// # Errors
    /// No cache, or a token file that cannot be read.
    pub fn new(config: &HubConfig, limits: Limits) -> Result<Self, HubError> {
        let cache = config.cache.clone().ok_or(HubError::NoCache)?;
        Ok(Self { client: Client::new(config, limits)?, cache, offline: config.offline })
    }

    fn store(&self, repository: &Repository) -> Store {
        Store::new(self.cache.clone(), repository)
    }

    /// Resolves `model` to its commit and files now. Offline, and if the hub cannot be reached, the cache's last
    /// knowledge is used.
    ///
    /// # Errors
    /// The hub's error. Offline or without an answer: the cache does not know the model.
    pub async fn resolve(&self, model: &HubModel) -> Result<Snapshot, HubError> {
        let store = self.store(&model.repository);
        if self.offline {
            let what = format!("hf://{} at {}", model.repository, model.revision.as_str());
            return cached(&store, model)?.ok_or(HubError::Offline { what, cache: self.cache.clone() });
        }
        match listing::fetch_listing(&self.client, model).await {
            Ok(snapshot) => {
                store.write_ref(&model.revision, &snapshot.commit)?;
                Ok(snapshot)
            }
            Err(error) if error.is_unreachable() => match cached(&store, model)? {
                Some(snapshot) => {
                    tracing::warn!(%error, commit = snapshot.commit, "the hub cannot be reached: using the cache");
                    Ok(snapshot)
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Brings `files` of `commit` into the cache. Returns the folder that holds them under their names.
    ///
    /// # Errors
    /// The error of the first file that cannot be fetched.
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

/// Returns the cache's knowledge of `model`, if it has any file of the model.
fn cached(store: &Store, model: &HubModel) -> Result<Option<Snapshot>, HubError> {
    let commit = model.revision.commit().map(str::to_owned).or_else(|| store.read_ref(&model.revision));
    let Some(commit) = commit else { return Ok(None) };
    let files = store.listed(&commit)?;
    Ok((!files.is_empty()).then_some(Snapshot { commit, files }))
}
