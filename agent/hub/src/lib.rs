//! Models of a hub: `hf://org/name`.
//!
//! The head asks once what a revision is: its commit, and the files with their sizes and digests ([`Snapshot`]). It
//! fetches what it reads itself ([`RemoteFiles`]: configuration and tokenizer whole, of the weights the headers alone),
//! and each node fetches the files that its ranks read, at that commit and checked by those digests. So a branch that
//! moves meanwhile moves no node.
//!
//! Everything goes through the cache that Hugging Face's own libraries use, in their layout; [`store`] says how.
//!
//! Invariants: what is in the cache under a digest has that digest; memory is bounded whatever a host answers; each
//! question is given up after a while; the token is sent to the hub's own address only.

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
    /// Bytes that are written at once; also what a process that dies loses of each connection's work.
    pub piece: u64,
    /// Pieces that one question asks for.
    pub run_pieces: u64,
    /// Connections at a time, each with one piece in memory.
    pub connections: usize,
    /// A host that sends nothing for this long has cut the connection.
    pub silence: Duration,
    /// How often a process looks whether another has finished a file.
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
    /// # Errors
    /// No cache, or a token file that cannot be read.
    pub fn new(config: &HubConfig, limits: Limits) -> Result<Self, HubError> {
        let cache = config.cache.clone().ok_or(HubError::NoCache)?;
        Ok(Self { client: Client::new(config, limits)?, cache, offline: config.offline })
    }

    fn store(&self, repository: &Repository) -> Store {
        Store::new(self.cache.clone(), repository)
    }

    /// What `model` is now. Offline, and where the hub cannot be reached, what the cache last knew of it.
    ///
    /// # Errors
    /// What the hub says; where it was not asked or says nothing, that the cache does not know either.
    pub async fn resolve(&self, model: &HubModel) -> Result<Snapshot, HubError> {
        let store = self.store(&model.repository);
        if self.offline {
            let what = format!("hf://{} at {}", model.repository, model.revision.as_str());
            return cached(&store, model)?.ok_or(HubError::Offline { what, cache: self.cache.clone() });
        }
        match listing::ask(&self.client, model).await {
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

    /// Brings `files` of `commit` into the cache, and returns the folder that holds them under their names.
    ///
    /// # Errors
    /// The first file that cannot be had.
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

/// What the cache knows of `model`, where it has any file of it.
fn cached(store: &Store, model: &HubModel) -> Result<Option<Snapshot>, HubError> {
    let commit = model.revision.commit().map(str::to_owned).or_else(|| store.read_ref(&model.revision));
    let Some(commit) = commit else { return Ok(None) };
    let files = store.listed(&commit)?;
    Ok((!files.is_empty()).then_some(Snapshot { commit, files }))
}
