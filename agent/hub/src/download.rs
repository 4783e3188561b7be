//! The download of a commit's files into the cache. It uses the files that are there, waits for the files that another
//! process fetches, and fetches the rest.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Semaphore;

use crate::client::Client;
use crate::content::ContentId;
use crate::disk::free_bytes;
use crate::error::HubError;
use crate::fetch::FileFetch;
use crate::listing::HubFile;
use crate::model::{Repository, is_commit};
use crate::partial::Partial;
use crate::progress::Meter;
use crate::store::{self, Lock, Store};

/// Most files that one process fetches at a time.
const MAX_FILES_AT_ONCE: usize = 4;

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
    /// Fetches `files` into the cache, and returns the folder that they are in.
    ///
    /// # Errors
    /// A file cannot be fetched. The error names the first such file.
    pub(crate) async fn fetch(&self, files: &[HubFile]) -> Result<PathBuf, HubError> {
        if !is_commit(self.commit) {
            let reason = format!("`{}` is no commit", self.commit);
            return Err(HubError::WrongAnswer { what: self.repository.to_string(), reason });
        }
        self.meter.begin(files.iter().fold(0, |sum, file| sum.saturating_add(file.size)));
        let mut missing = Vec::new();
        for file in files {
            if self.is_cached(file).await? {
                self.meter.add(file.size);
            } else if self.offline {
                let what = format!("{} of hf://{} at {}", file.name, self.repository, self.commit);
                return Err(HubError::Offline { what, cache: self.store.cache().to_owned() });
            } else {
                missing.push(file);
            }
        }
        self.check_space(&missing)?;
        let (connections, slots) = (Semaphore::new(self.client.limits.connections), Semaphore::new(MAX_FILES_AT_ONCE));
        let mut downloads: FuturesUnordered<_> =
            missing.iter().map(|file| self.fetch_file(file, &connections, &slots)).collect();
        while let Some(done) = downloads.next().await {
            done?;
        }
        Ok(self.store.snapshot(self.commit))
    }

    async fn is_cached(&self, file: &HubFile) -> Result<bool, HubError> {
        let (store, commit, file) = (self.store.clone(), self.commit.to_owned(), file.clone());
        blocking(move || store.has_file(&commit, &file)).await
    }

    /// Checks that the disk has room for the missing files, before the process fetches a byte.
    fn check_space(&self, missing: &[&HubFile]) -> Result<(), HubError> {
        let piece = self.client.limits.piece_bytes;
        let bytes_on_disk = |file: &HubFile| match self.store.has_blob(file) {
            true => file.size,
            false => Partial::bytes_at(&self.store.partial(&file.id), file.size, piece),
        };
        let needed =
            missing.iter().fold(0u64, |sum, file| sum.saturating_add(file.size.saturating_sub(bytes_on_disk(file))));
        let free = free_bytes(self.store.cache());
        match needed > free {
            true => Err(HubError::Full { path: self.store.cache().to_owned(), needed, free }),
            false => Ok(()),
        }
    }

    /// Fetches one file. While another process holds the file's lock, this process gives its slot to another file. So the
    /// processes of one cache divide the files between them.
    async fn fetch_file(&self, file: &HubFile, connections: &Semaphore, slots: &Semaphore) -> Result<(), HubError> {
        let mut counted = 0;
        loop {
            let slot = slots.acquire().await.map_err(|error| HubError::Ended(error.to_string()))?;
            if let Some(lock) = self.store.try_lock(&file.id)? {
                self.meter.take_back(counted);
                return self.fetch_locked_file(file, connections, &lock).await;
            }
            drop(slot);
            let fetched = Partial::bytes_at(&self.store.partial(&file.id), file.size, self.client.limits.piece_bytes);
            self.meter.add(fetched.saturating_sub(counted));
            counted = counted.max(fetched);
            tokio::time::sleep(self.client.limits.poll_interval).await;
        }
    }

    async fn fetch_locked_file(&self, file: &HubFile, connections: &Semaphore, lock: &Lock) -> Result<(), HubError> {
        if self.store.has_blob(file) {
            self.meter.add(file.size);
        } else {
            // The remains of an earlier process may be damaged, and the network may damage new bytes: a second try is
            // enough for either.
            let mut found = self.fetch_blob(file, connections, lock).await?;
            if found != file.id {
                found = self.fetch_blob(file, connections, lock).await?;
            }
            if found != file.id {
                let (expected, found) = (file.id.to_string(), found.to_string());
                return Err(HubError::Digest { file: file.name.clone(), expected, found });
            }
        }
        self.store.link(self.commit, file)
    }

    /// Fetches the missing pieces of a blob, completes the blob, and returns its digest. If the digest is wrong, it removes
    /// the blob.
    async fn fetch_blob(&self, file: &HubFile, connections: &Semaphore, lock: &Lock) -> Result<ContentId, HubError> {
        let (path, blob) = (self.store.partial(&file.id), self.store.blob(&file.id));
        store::make_parent_folder(&path)?;
        let open = Partial::open(path.clone(), file.size, self.client.limits.piece_bytes);
        let partial = Arc::new(open.map_err(|cause| HubError::disk(&path, cause))?);
        self.meter.add(partial.bytes_done());
        let (client, repository, commit, meter) = (self.client, self.repository, self.commit, self.meter);
        let (location, bytes) = (Mutex::new(None), partial.clone());
        let what = format!("{} of hf://{repository}", file.name);
        let fetch =
            FileFetch { client, repository, commit, file, what, partial: bytes, lock, connections, meter, location };
        fetch.fetch_missing().await?;
        let (meter, id, lock) = (self.meter.clone(), file.id.clone(), lock.clone());
        let found = blocking(move || {
            let _lock = lock;
            let digest = partial.digest(&id, &mut |bytes| meter.add_checked(bytes));
            let found = digest.map_err(|cause| HubError::disk(&path, cause))?;
            let settled = if found == id { partial.finish(&blob) } else { partial.discard() };
            settled.map_err(|cause| HubError::disk(&path, cause))?;
            Ok(found)
        });
        let found = found.await?;
        if found != file.id {
            self.meter.take_back(file.size);
            tracing::warn!(file = file.name, "the content of a file has a wrong digest: fetching the file again");
        }
        Ok(found)
    }
}

/// Runs work on the disk outside the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(HubError::Ended(error.to_string())))
}
