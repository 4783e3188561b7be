//! A model in a folder on disk, read with `pread`; each file is opened once.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{ModelFiles, open_regular};
use crate::EngineError;

/// Files of one folder. Safe to share between the ranks of a process.
#[derive(Debug)]
pub struct FolderFiles {
    source: String,
    folder: PathBuf,
    open: Mutex<HashMap<String, Arc<File>>>,
    bytes_read: AtomicU64,
}

impl FolderFiles {
    /// Opens the folder of a model.
    ///
    /// # Errors
    /// [`EngineError::Source`] if `folder` is no folder.
    pub fn open(source: &str, folder: &Path) -> Result<Self, EngineError> {
        let refuse = |reason: String| EngineError::Source { origin: source.into(), reason };
        let metadata = std::fs::metadata(folder).map_err(|error| refuse(error.to_string()))?;
        if !metadata.is_dir() {
            return Err(refuse(
                "neither a folder nor a GGUF file; name the folder that holds config.json, or a file NAME.gguf".into(),
            ));
        }
        Ok(Self { source: source.into(), folder: folder.into(), open: Mutex::default(), bytes_read: AtomicU64::new(0) })
    }

    /// Opens a file once. Returns `None` if there is none of that name.
    fn file(&self, name: &str) -> Result<Option<Arc<File>>, EngineError> {
        let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || name.is_empty() {
            return Err(EngineError::format(name, "the name of a model file must stay inside the model's folder"));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(name) {
            return Ok(Some(Arc::clone(file)));
        }
        match open_regular(&self.folder.join(name)) {
            Ok(file) => Ok(Some(Arc::clone(open.entry(name.into()).or_insert_with(|| Arc::new(file))))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(self.io(name, cause)),
        }
    }

    fn io(&self, name: &str, cause: std::io::Error) -> EngineError {
        EngineError::Io { file: self.folder.join(name).display().to_string(), cause }
    }
}

impl ModelFiles for FolderFiles {
    fn source(&self) -> &str {
        &self.source
    }

    fn size(&self, name: &str) -> Result<Option<u64>, EngineError> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        Ok(Some(file.metadata().map_err(|cause| self.io(name, cause))?.len()))
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), EngineError> {
        let missing = || EngineError::Missing { file: name.into(), origin: self.source.clone() };
        let file = self.file(name)?.ok_or_else(missing)?;
        match file.read_exact_at(buffer, offset) {
            Ok(()) => {
                self.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(EngineError::Truncated {
                file: self.folder.join(name).display().to_string(),
                size: file.metadata().map_or(0, |metadata| metadata.len()),
                expected: offset + buffer.len() as u64,
            }),
            Err(cause) => Err(self.io(name, cause)),
        }
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn folder_with(name: &str, content: &[u8]) -> (tempfile::TempDir, FolderFiles) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), content).unwrap();
        let files = FolderFiles::open("test", folder.path()).unwrap();
        (folder, files)
    }

    #[test]
    fn slices_are_read_and_counted() {
        let (_folder, files) = folder_with("a", b"0123456789");
        let mut three = [0; 3];
        files.read_at("a", 4, &mut three).unwrap();
        assert_eq!(&three, b"456");
        assert_eq!(files.bytes_read(), 3);
        assert_eq!(files.size("a").unwrap(), Some(10));
        assert_eq!(files.size("b").unwrap(), None);
        assert_eq!(files.read_all("a").unwrap().unwrap(), b"0123456789");
        assert!(files.read_all("b").unwrap().is_none());
    }

    #[test]
    fn errors_name_the_file() {
        let (folder, files) = folder_with("a", b"0123");
        fixture::make_pipe(&folder.path().join("pipe"));
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        let mut five = [0; 5];
        let error = files.read_at("a", 0, &mut five).unwrap_err();
        assert!(matches!(&error, EngineError::Truncated { size: 4, expected: 5, .. }), "{error}");
        assert!(files.read_at("b", 0, &mut five).unwrap_err().to_string().starts_with("b is missing in test"));
        assert!(files.require("b").is_err());
        for (name, what) in [("pipe", "a pipe"), ("folder", "a folder")] {
            let message = files.require(name).unwrap_err().to_string();
            assert!(message.contains(&format!("/{name}: it is {what}")), "{message}");
        }
        for outside in ["../a", "/etc/passwd", "", "x/../../a"] {
            assert!(files.size(outside).is_err(), "{outside}");
        }
    }
}
