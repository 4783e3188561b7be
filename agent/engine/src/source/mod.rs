//! Files of a model, in a folder or in the binary itself.
//!
//! Files are read by slices (`pread`), never mapped, so a file that shrinks meanwhile is an error and not a signal. Every
//! byte read is counted, so that tests see a second read.

mod builtin;
mod digest;
mod folder;
mod index;
mod offers;
mod regular;
mod secret_file;
mod small_file;
mod split_name;
mod tag;

pub use builtin::BuiltinFiles;
pub use digest::{ModelFile, digest_files, rank_files, resolve, sample, to_hex, verify, verify_samples};
pub use folder::FolderFiles;
pub(crate) use index::{GGUF_FILE, Index, gguf_part};
pub use offers::{GgufOffer, ModelChoice, Offers, format_bytes, is_gguf_name};
pub use regular::open_regular;
pub use secret_file::{check_secret_file, read_secret_file};
pub use small_file::read_small_file;
pub(crate) use split_name::SplitName;

use crate::EngineError;

/// Size of the largest file that is read whole (configurations, tokenizers): 256 MiB, several times the largest known.
pub const MAX_WHOLE_FILE: u64 = 256 << 20;

/// The files of one model. Names are relative to the model (`config.json`).
pub trait ModelFiles: Send + Sync + std::fmt::Debug {
    /// Returns the source as the user named it: `file:///models/llama`, `builtin://tiny`.
    fn source(&self) -> &str;

    /// Returns faults of the files that do not keep the model from serving, for the log.
    fn warnings(&self) -> &[String] {
        &[]
    }

    /// Returns the size of a file in bytes; `None` if there is none of that name.
    ///
    /// # Errors
    /// The operating system's.
    fn size(&self, name: &str) -> Result<Option<u64>, EngineError>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// [`EngineError::Missing`], [`EngineError::Truncated`] if the file ends early, [`EngineError::Io`].
    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), EngineError>;

    /// Returns the bytes read so far through this value, all files together.
    fn bytes_read(&self) -> u64;

    /// Reads a whole file. Returns `None` if there is none of that name.
    ///
    /// # Errors
    /// Those of [`ModelFiles::read_at`], and [`EngineError::Format`] for a file above [`MAX_WHOLE_FILE`].
    fn read_all(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        let Some(size) = self.size(name)? else { return Ok(None) };
        if size > MAX_WHOLE_FILE {
            return Err(EngineError::format(name, format!("{size} bytes are more than {MAX_WHOLE_FILE}")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.read_at(name, 0, &mut bytes)?;
        refuse_pointer(name, &bytes)?;
        Ok(Some(bytes))
    }

    /// Reads a whole file that must be there.
    ///
    /// # Errors
    /// Those of [`ModelFiles::read_all`], and [`EngineError::Missing`].
    fn require(&self, name: &str) -> Result<Vec<u8>, EngineError> {
        self.read_all(name)?.ok_or_else(|| EngineError::Missing { file: name.into(), origin: self.source().into() })
    }
}

/// Refuses a file that begins as a pointer of git-lfs does: the file itself was not downloaded.
///
/// # Errors
/// [`EngineError::Format`].
pub(crate) fn refuse_pointer(name: &str, beginning: &[u8]) -> Result<(), EngineError> {
    const BEGINNING: &[u8] = b"version ";
    let reason = "it is a pointer of git-lfs, not the file itself: run `git lfs pull` in its folder, or download the model again";
    match beginning.starts_with(BEGINNING) {
        true => Err(EngineError::format(name, reason)),
        false => Ok(()),
    }
}

/// Fills `buffer` with `bytes` from `offset` on. `bytes` are the file `name`.
///
/// # Errors
/// [`EngineError::Truncated`].
pub(crate) fn read_slice(name: &str, bytes: &[u8], offset: u64, buffer: &mut [u8]) -> Result<(), EngineError> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let part = start.checked_add(buffer.len()).and_then(|end| bytes.get(start..end));
    let truncated = || EngineError::Truncated {
        file: name.into(),
        size: bytes.len() as u64,
        expected: offset.saturating_add(buffer.len() as u64),
    };
    buffer.copy_from_slice(part.ok_or_else(truncated)?);
    Ok(())
}
