//! Where a model's files come from: a folder, a GGUF file, or the binary itself.
//!
//! Files are read by slices (`pread`), never mapped: a file that shrinks under us is an error, not a signal. Every
//! byte read is counted, so that "read twice" can be seen.

mod builtin;
mod digest;
mod folder;
mod gguf;
mod regular;

use std::path::Path;
use std::sync::Arc;

pub use builtin::BuiltinFiles;
pub use digest::{ModelFile, digest_of, hex, rank_files, resolve, verify};
pub use folder::FolderFiles;
pub(crate) use gguf::{GGUF_FILE, read as read_gguf};
pub use regular::open_regular;

use crate::EngineError;

/// Largest file that is read whole (configurations, tokenizers): 256 MiB, several times the largest known.
pub const MAX_WHOLE_FILE: u64 = 256 << 20;

/// The files of one model. Names are relative to the model (`config.json`).
pub trait ModelFiles: Send + Sync + std::fmt::Debug {
    /// The source as it was asked for: `file:///models/llama`, `builtin://tiny`.
    fn source(&self) -> &str;

    /// Size of a file in bytes; `None` where there is none of that name.
    ///
    /// # Errors
    /// The operating system's.
    fn size(&self, name: &str) -> Result<Option<u64>, EngineError>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// [`EngineError::Missing`], [`EngineError::Truncated`] where the file ends early, [`EngineError::Io`].
    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), EngineError>;

    /// Bytes read so far through this value, all files together.
    fn bytes_read(&self) -> u64;

    /// Reads a whole file; `None` where there is none of that name.
    ///
    /// # Errors
    /// As [`ModelFiles::read_at`]; files above [`MAX_WHOLE_FILE`] are refused.
    fn read_all(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        let Some(size) = self.size(name)? else { return Ok(None) };
        if size > MAX_WHOLE_FILE {
            return Err(EngineError::format(name, format!("{size} bytes are more than {MAX_WHOLE_FILE}")));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.read_at(name, 0, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Reads a whole file that must be there.
    ///
    /// # Errors
    /// As [`ModelFiles::read_all`], and [`EngineError::Missing`].
    fn require(&self, name: &str) -> Result<Vec<u8>, EngineError> {
        self.read_all(name)?.ok_or_else(|| EngineError::Missing { file: name.into(), origin: self.source().into() })
    }
}

/// Fills `buffer` from `offset` on out of `bytes`, which are the file `name`.
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

/// Opens `file://PATH`, a plain path, or `builtin://NAME`. A path is a folder, a GGUF file, or a folder that holds one
/// and no `config.json`.
///
/// # Errors
/// [`EngineError::Source`] for another scheme, a builtin that does not exist, or a path that is no folder.
pub fn open(source: &str) -> Result<Arc<dyn ModelFiles>, EngineError> {
    let refuse = |reason: &str| EngineError::Source { origin: source.into(), reason: reason.into() };
    match source.split_once("://") {
        Some(("builtin", name)) => Ok(Arc::new(BuiltinFiles::open(source, name)?)),
        Some(("file", path)) => open_path(source, Path::new(path)),
        Some((scheme, _)) => Err(refuse(&format!(
            "scheme `{scheme}` is not read by this agent; use file://FOLDER, a plain path or builtin://tiny"
        ))),
        None if source.is_empty() => Err(refuse("it is empty; use file://FOLDER, a plain path or builtin://tiny")),
        None => open_path(source, Path::new(source)),
    }
}

fn open_path(source: &str, path: &Path) -> Result<Arc<dyn ModelFiles>, EngineError> {
    if gguf::is_gguf(path) && path.is_file() {
        return Ok(Arc::new(gguf::GgufFiles::open(source, path)?));
    }
    match gguf::only_gguf(source, path)? {
        Some(file) => Ok(Arc::new(gguf::GgufFiles::open(source, &file)?)),
        None => Ok(Arc::new(FolderFiles::open(source, path)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_that_cannot_be_opened_say_why() {
        let cases = [
            ("hf://org/model", "scheme `hf` is not read"),
            ("", "it is empty"),
            ("/nowhere/at/all", "No such file"),
            ("file:///nowhere/at/all", "No such file"),
            ("builtin://huge", "there is no builtin model `huge`"),
        ];
        for (source, expected) in cases {
            let message = open(source).expect_err(source).to_string();
            assert!(message.contains(expected), "{source}: {message}");
            assert!(message.contains(source), "{source}: {message}");
        }
    }

    #[test]
    fn a_file_in_place_of_a_folder_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = open(file.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("neither a folder nor a GGUF file"), "{message}");
    }
}
