//! A GGUF file, seen as the folder that the same model has on the hub. Its metadata become JSON files, and its weights are
//! `model.gguf`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::config;
use super::header::Header;
use super::rope::RopeFactors;
use super::tokenizer::{tokenizer, tokenizer_config};
use crate::EngineError;
use crate::source::{FolderFiles, GGUF_FILE, ModelFiles, read_slice};

/// One GGUF file.
#[derive(Debug)]
pub struct GgufFiles {
    folder: FolderFiles,
    /// Name of the file in its folder.
    name: String,
    /// Files that are made of the metadata: name and content.
    made: Vec<(&'static str, Vec<u8>)>,
}

impl GgufFiles {
    /// Opens the file at `path` and reads its header.
    ///
    /// # Errors
    /// [`EngineError::Source`], [`EngineError::Format`], [`EngineError::Truncated`], [`EngineError::Architecture`].
    pub fn open(source: &str, path: &Path) -> Result<Self, EngineError> {
        let refuse = |reason: &str| EngineError::Source { origin: source.into(), reason: reason.into() };
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| refuse("it names no file"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = FolderFiles::open(source, parent)?;
        let header = read_header(&folder, name)?;
        let rope = RopeFactors::from_header(&header, &mut |offset, buffer| folder.read_at(name, offset, buffer))?;
        let config = config(&header, &rope)?;
        let bytes = |json: Value| json.to_string().into_bytes();
        let made = vec![
            ("config.json", bytes(config)),
            ("tokenizer.json", bytes(tokenizer(&header)?)),
            ("tokenizer_config.json", bytes(tokenizer_config(&header)?)),
        ];
        Ok(Self { folder, name: name.into(), made })
    }

    fn made(&self, name: &str) -> Option<&[u8]> {
        self.made.iter().find(|(made, _)| *made == name).map(|(_, bytes)| bytes.as_slice())
    }
}

/// Returns the one GGUF file of a folder that holds no `config.json`.
///
/// # Errors
/// [`EngineError::Source`] if it has several.
pub fn only_gguf(source: &str, folder: &Path) -> Result<Option<PathBuf>, EngineError> {
    if folder.join("config.json").exists() {
        return Ok(None);
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(None) };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = paths.filter(|path| is_gguf(path)).collect();
    found.sort();
    if found.len() > 1 {
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        let reason = format!("it holds several GGUF files; name one of {}", names.join(", "));
        return Err(EngineError::Source { origin: source.into(), reason });
    }
    Ok(found.pop())
}

pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Reads the header of the GGUF file `name`.
///
/// # Errors
/// [`EngineError::Missing`], [`EngineError::Format`], [`EngineError::Truncated`].
pub fn read_header(files: &dyn ModelFiles, name: &str) -> Result<Header, EngineError> {
    let missing = || EngineError::Missing { file: name.into(), origin: files.source().into() };
    let size = files.size(name)?.ok_or_else(missing)?;
    Header::parse(name, size, |offset, buffer| files.read_at(name, offset, buffer))
}

impl ModelFiles for GgufFiles {
    fn source(&self) -> &str {
        self.folder.source()
    }

    fn size(&self, name: &str) -> Result<Option<u64>, EngineError> {
        match name {
            GGUF_FILE => self.folder.size(&self.name),
            _ => Ok(self.made(name).map(|bytes| bytes.len() as u64)),
        }
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), EngineError> {
        if name == GGUF_FILE {
            return self.folder.read_at(&self.name, offset, buffer);
        }
        let missing = || EngineError::Missing { file: name.into(), origin: self.source().into() };
        let bytes = self.made(name).ok_or_else(missing)?;
        read_slice(name, bytes, offset, buffer)
    }

    fn bytes_read(&self) -> u64 {
        self.folder.bytes_read()
    }
}
