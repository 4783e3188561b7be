//! The files of a model for the head, which loads no weights: small files from the cache, headers of weights and of GGUF
//! files by ranges.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::{self, StreamExt as _};
use lockstep_engine::EngineError;
use lockstep_engine::source::{FolderFiles, MAX_WHOLE_FILE, ModelFiles, is_gguf_name};
use reqwest::StatusCode;
use tokio::runtime::Handle;

use crate::client::{HubRequest, HubResponse, in_words};
use crate::error::AttemptError;
use crate::model::{HubModel, Repository};
use crate::progress::Meter;
use crate::retry::Retries;
use crate::{Hub, HubError, HubFile, Snapshot};

/// Bytes of a block. Most headers of weights are smaller, so one request fetches a header.
const BLOCK: u64 = 256 << 10;
/// Most blocks in memory, 128 MiB. The headers of known models need less; for more, some blocks are fetched again.
const MAX_BLOCKS: usize = 512;

/// Blocks by file and index.
type Blocks = HashMap<(String, u64), Arc<[u8]>>;

/// Files of one snapshot. A read blocks its thread, so call it outside the runtime's threads.
#[derive(Debug)]
pub struct RemoteFiles {
    source: String,
    repository: Repository,
    commit: String,
    hub: Arc<Hub>,
    runtime: Handle,
    files: HashMap<String, HubFile>,
    folder: FolderFiles,
    /// Names of the files that are in the folder.
    local: HashSet<String>,
    blocks: Mutex<Blocks>,
    bytes_read: AtomicU64,
}

impl RemoteFiles {
    /// Opens the GGUF files `parts`, or the checkpoint if there are none. Fetches configuration, tokenizer and templates of
    /// a checkpoint. Other files of the snapshot are read from the cache if they are there.
    ///
    /// # Errors
    /// The hub or the disk fails.
    pub async fn open(
        hub: Arc<Hub>,
        model: &HubModel,
        snapshot: &Snapshot,
        parts: &[String],
    ) -> Result<Arc<Self>, HubError> {
        let store = hub.store(&model.repository);
        let is_of_model = |file: &&HubFile| match parts.is_empty() {
            true => !is_gguf_name(&file.name),
            false => parts.contains(&file.name),
        };
        let files: Vec<&HubFile> = snapshot.files.iter().filter(is_of_model).collect();
        let small_files: Vec<HubFile> = files.iter().filter(|file| is_read_whole(file)).copied().cloned().collect();
        let path = hub.download(&model.repository, &snapshot.commit, &small_files, &Meter::new().0).await?;
        std::fs::create_dir_all(&path).map_err(|cause| HubError::disk(&path, cause))?;
        let source = format!("hf://{}", model.repository);
        let folder = FolderFiles::open(&source, &path).map_err(|error| HubError::Ended(error.to_string()))?;
        let mut local = HashSet::new();
        for file in &files {
            if is_read_whole(file) || store.has_file(&snapshot.commit, file)? {
                local.insert(file.name.clone());
            }
        }
        Ok(Arc::new(Self {
            source,
            repository: model.repository.clone(),
            commit: snapshot.commit.clone(),
            runtime: Handle::current(),
            files: files.into_iter().map(|file| (file.name.clone(), file.clone())).collect(),
            folder,
            local,
            blocks: Mutex::default(),
            bytes_read: AtomicU64::new(0),
            hub,
        }))
    }

    /// Fetches the first blocks of `names` in parallel. One after another, the headers of many files would take long.
    ///
    /// # Errors
    /// The hub refuses a request or does not answer.
    pub async fn read_ahead(&self, names: &[String]) -> Result<(), HubError> {
        let wanted = names.iter().filter(|name| !self.local.contains(*name)).filter_map(|name| self.files.get(name));
        let blocks = wanted.map(|file| async move { self.block(file, 0).await.map(drop) });
        let mut blocks = stream::iter(blocks).buffer_unordered(self.hub.client.limits.connections);
        while let Some(done) = blocks.next().await {
            done?;
        }
        Ok(())
    }

    /// Returns a block. If the block before it was read, fetches several blocks in parallel: the header of a GGUF file has
    /// the vocabulary, and one block after another would take long.
    async fn block_in_sequence(&self, file: &HubFile, index: u64) -> Result<Arc<[u8]>, HubError> {
        let is_next = index > 0 && self.cached_block(file, index).is_none();
        if is_next && self.cached_block(file, index - 1).is_some() {
            let connections = self.hub.client.limits.connections;
            let ahead = index..(index + connections as u64).min(file.size.div_ceil(BLOCK));
            let mut blocks = stream::iter(ahead.map(|index| self.block(file, index))).buffer_unordered(connections);
            while let Some(done) = blocks.next().await {
                done?;
            }
        }
        self.block(file, index).await
    }

    fn cached_block(&self, file: &HubFile, index: u64) -> Option<Arc<[u8]>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).get(&(file.name.clone(), index)).cloned()
    }

    async fn block(&self, file: &HubFile, index: u64) -> Result<Arc<[u8]>, HubError> {
        if let Some(block) = self.cached_block(file, index) {
            return Ok(block);
        }
        let start = index * BLOCK;
        let block: Arc<[u8]> = self.fetch_range(file, start..(start + BLOCK).min(file.size)).await?.into();
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() >= MAX_BLOCKS {
            blocks.clear();
        }
        blocks.insert((file.name.clone(), index), block.clone());
        Ok(block)
    }

    async fn fetch_range(&self, file: &HubFile, range: Range<u64>) -> Result<Vec<u8>, HubError> {
        let client = &self.hub.client;
        let parts = self.repository.as_str().split('/').chain(["resolve", self.commit.as_str()]);
        let url = client.url(parts.chain(file.name.split('/')));
        let what = format!("{} of {}", file.name, self.source);
        let mut retries = Retries::new(client.limits.retry);
        loop {
            let request = HubRequest { what: &what, url: url.clone(), range: Some(range.clone()), if_range: None };
            let (reason, after) = match read_range(client.send_once(&request).await, &range).await {
                Ok(bytes) => return Ok(bytes),
                Err(AttemptError::Final(error)) => return Err(error),
                Err(AttemptError::Retry { reason, after }) => (reason, after),
            };
            client.pause(&mut retries, &what, reason, after).await?;
        }
    }

    fn read_remote(&self, file: &HubFile, offset: u64, buffer: &mut [u8]) -> Result<(), HubError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            let block = self.runtime.block_on(self.block_in_sequence(file, at / BLOCK))?;
            let from = (at % BLOCK) as usize;
            let length = (block.len() - from).min(buffer.len() - filled);
            buffer[filled..filled + length].copy_from_slice(&block[from..from + length]);
            filled += length;
        }
        Ok(())
    }
}

/// Reads the bytes of `range` from a response that holds this range or the whole file.
async fn read_range(response: Result<HubResponse, AttemptError>, range: &Range<u64>) -> Result<Vec<u8>, AttemptError> {
    let mut response = response?.response;
    let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT { 0 } else { range.start };
    let length = range.end - range.start;
    let mut bytes = Vec::with_capacity(length as usize);
    while (bytes.len() as u64) < length {
        let chunk = response.chunk().await.map_err(|error| AttemptError::retry(in_words(error)))?;
        let chunk = chunk.ok_or_else(|| AttemptError::retry("the answer was cut"))?;
        let skipped = skip.min(chunk.len() as u64);
        skip -= skipped;
        let missing = (length - bytes.len() as u64).min(chunk.len() as u64 - skipped);
        bytes.extend_from_slice(&chunk[skipped as usize..(skipped + missing) as usize]);
    }
    Ok(bytes)
}

/// Returns true for a file that the head reads to its end: configuration, tokenizer, templates, the index of the weights.
fn is_read_whole(file: &HubFile) -> bool {
    let kinds = [".json", ".jinja"];
    !file.name.contains('/') && kinds.iter().any(|kind| file.name.ends_with(kind)) && file.size <= MAX_WHOLE_FILE
}

impl ModelFiles for RemoteFiles {
    fn source(&self) -> &str {
        &self.source
    }

    fn size(&self, name: &str) -> Result<Option<u64>, EngineError> {
        Ok(self.files.get(name).map(|file| file.size))
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), EngineError> {
        if self.local.contains(name) {
            return self.folder.read_at(name, offset, buffer);
        }
        let missing = || EngineError::Missing { file: name.into(), origin: self.source.clone() };
        let file = self.files.get(name).ok_or_else(missing)?;
        let expected = offset.saturating_add(buffer.len() as u64);
        if expected > file.size {
            return Err(EngineError::Truncated { file: name.into(), size: file.size, expected });
        }
        let io = |error| EngineError::Io { file: name.into(), cause: std::io::Error::other(error) };
        self.read_remote(file, offset, buffer).map_err(io)?;
        self.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed) + self.folder.bytes_read()
    }
}
