//! Downloads of one commit's files into the cache. A file that is there is used. A file that another process fetches is
//! waited for. All others are fetched.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Semaphore;

use crate::client::Client;
use crate::content::ContentId;
use crate::disk::free_bytes;
use crate::error::HubError;
use crate::fetch::Fetch;
use crate::listing::HubFile;
use crate::model::{Repository, is_commit};
use crate::partial::Partial;
use crate::progress::Meter;
use crate::store::{self, Lock, Store};

/// Files that are fetched at a time.
const FILES: usize = 4;

/// A download of some files of one commit.
pub(crate) struct Download<'a> {
    pub client: &'a Client,
    pub store: &'a Store,
    pub repository: &'a Repository,
    pub commit: &'a str,
    pub offline: bool,
    pub meter: &'a Meter,
}

impl Download<'_> {
    /// Brings `files` into the cache. Returns their folder.
    ///
    /// # Errors
    /// The error of the first file that cannot be fetched.
    pub(crate) async fn fetch(&self, files: &[HubFile]) -> Result<PathBuf, HubError> {
        if !is_commit(self.commit) {
            let reason = format!("`{}` is no commit", self.commit);
            return Err(HubError::Answer { what: self.repository.to_string(), reason });
        }
        self.meter.begin(files.iter().fold(0, |sum, file| sum.saturating_add(file.size)));
        let mut missing = Vec::new();
        for file in files {
            if self.is_there(file).await? {
                self.meter.add(file.size);
            } else if self.offline {
                let what = format!("{} of hf://{} at {}", file.name, self.repository, self.commit);
                return Err(HubError::Offline { what, cache: self.store.cache().to_owned() });
            } else {
                missing.push(file);
            }
        }
        self.check_space(&missing)?;
        let (connections, turns) = (Semaphore::new(self.client.limits.connections), Semaphore::new(FILES));
        let mut all: FuturesUnordered<_> = missing.iter().map(|file| self.one(file, &connections, &turns)).collect();
        while let Some(done) = all.next().await {
            done?;
        }
        Ok(self.store.snapshot(self.commit))
    }

    async fn is_there(&self, file: &HubFile) -> Result<bool, HubError> {
        let (store, commit, file) = (self.store.clone(), self.commit.to_owned(), file.clone());
        blocking(move || store.has(&commit, &file)).await
    }

    /// Checks that the disk has room, before anything is fetched.
    fn check_space(&self, missing: &[&HubFile]) -> Result<(), HubError> {
        let piece = self.client.limits.piece;
        let there = |file: &HubFile| match self.store.has_blob(file) {
            true => file.size,
            false => Partial::bytes_at(&self.store.partial(&file.id), file.size, piece),
        };
        let wanted = missing.iter().fold(0u64, |sum, file| sum.saturating_add(file.size.saturating_sub(there(file))));
        let free = free_bytes(self.store.cache());
        match wanted > free {
            true => Err(HubError::Full { path: self.store.cache().to_owned(), wanted, free }),
            false => Ok(()),
        }
    }

    /// Brings one file. A process that waits for another's lock takes no turn meanwhile, so that the processes of one
    /// cache divide the files between them.
    async fn one(&self, file: &HubFile, connections: &Semaphore, turns: &Semaphore) -> Result<(), HubError> {
        let mut waited = 0;
        loop {
            let turn = turns.acquire().await.map_err(|error| HubError::Ended(error.to_string()))?;
            if let Some(lock) = self.store.try_lock(&file.id)? {
                self.meter.take_back(waited);
                return self.locked(file, connections, lock).await;
            }
            drop(turn);
            let there = Partial::bytes_at(&self.store.partial(&file.id), file.size, self.client.limits.piece);
            self.meter.add(there.saturating_sub(waited));
            waited = waited.max(there);
            tokio::time::sleep(self.client.limits.look).await;
        }
    }

    async fn locked(&self, file: &HubFile, connections: &Semaphore, _lock: Lock) -> Result<(), HubError> {
        if self.store.has_blob(file) {
            self.meter.add(file.size);
        } else {
            // The parts of an earlier process may be damaged, and so may the first fresh download. Hence two attempts.
            let mut found = self.blob(file, connections).await?;
            if found != file.id {
                found = self.blob(file, connections).await?;
            }
            if found != file.id {
                let (expected, found) = (file.id.to_string(), found.to_string());
                return Err(HubError::Digest { file: file.name.clone(), expected, found });
            }
        }
        self.store.link(self.commit, file)
    }

    /// Fetches the missing parts of a blob. Returns the digest of the whole, and removes the blob if the digest is
    /// wrong.
    async fn blob(&self, file: &HubFile, connections: &Semaphore) -> Result<ContentId, HubError> {
        let (path, blob) = (self.store.partial(&file.id), self.store.blob(&file.id));
        store::make_folder_of(&path)?;
        let open = Partial::open(path.clone(), file.size, self.client.limits.piece);
        let partial = Arc::new(open.map_err(|cause| HubError::disk(&path, cause))?);
        self.meter.add(partial.bytes_done());
        let (client, repository, commit, meter) = (self.client, self.repository, self.commit, self.meter);
        let (place, bytes) = (Mutex::new(None), partial.clone());
        let what = format!("{} of hf://{repository}", file.name);
        Fetch { client, repository, commit, file, what, partial: bytes, connections, meter, place }.all().await?;
        let (meter, id) = (self.meter.clone(), file.id.clone());
        let found = blocking(move || {
            let digest = partial.digest(&id, &mut |bytes| meter.moved(bytes));
            let found = digest.map_err(|cause| HubError::disk(&path, cause))?;
            let settled = if found == id { partial.finish(&blob) } else { partial.discard() };
            settled.map_err(|cause| HubError::disk(&path, cause))?;
            Ok(found)
        });
        let found = found.await?;
        if found != file.id {
            self.meter.take_back(file.size);
            tracing::warn!(file = file.name, "its content was not what the hub lists: fetching it anew");
        }
        Ok(found)
    }
}

/// Runs work on the disk off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(HubError::Ended(error.to_string())))
}
