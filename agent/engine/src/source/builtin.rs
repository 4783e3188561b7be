//! Models inside the binary: `builtin://tiny`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{ModelFiles, read_slice};
use crate::EngineError;

/// A file's name and its bytes.
type Embedded = (&'static str, &'static [u8]);

/// Every builtin model: its name and files.
const MODELS: &[(&str, &[Embedded])] = &[("tiny", TINY)];

/// The files of `agent/engine/builtin/tiny`, under their own names.
macro_rules! tiny {
    ($($file:literal),+ $(,)?) => { &[$(($file, include_bytes!(concat!("../../builtin/tiny/", $file)))),+] };
}

const TINY: &[Embedded] =
    tiny!["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// The files of one embedded model.
#[derive(Debug)]
pub struct BuiltinFiles {
    source: String,
    files: &'static [Embedded],
    bytes_read: AtomicU64,
}

impl BuiltinFiles {
    /// Opens the builtin model `name`.
    ///
    /// # Errors
    /// [`EngineError::Source`] if there is none of that name.
    pub fn open(source: &str, name: &str) -> Result<Self, EngineError> {
        let names = || MODELS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let (_, files) = MODELS.iter().find(|(builtin, _)| *builtin == name).ok_or_else(|| EngineError::Source {
            origin: source.into(),
            reason: format!("there is no builtin model `{name}`; there is: {}", names()),
        })?;
        Ok(Self { source: source.into(), files, bytes_read: AtomicU64::new(0) })
    }

    fn file(&self, name: &str) -> Option<&'static [u8]> {
        self.files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| *bytes)
    }
}

impl ModelFiles for BuiltinFiles {
    fn source(&self) -> &str {
        &self.source
    }

    fn size(&self, name: &str) -> Result<Option<u64>, EngineError> {
        Ok(self.file(name).map(|bytes| bytes.len() as u64))
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), EngineError> {
        let missing = || EngineError::Missing { file: name.into(), origin: self.source.clone() };
        let bytes = self.file(name).ok_or_else(missing)?;
        read_slice(&format!("{}/{name}", self.source), bytes, offset, buffer)?;
        self.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_is_a_whole_model_of_at_most_eight_megabytes() {
        let files = BuiltinFiles::open("builtin://tiny", "tiny").unwrap();
        let total: usize = TINY.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!((1..=8 << 20).contains(&total), "{total} bytes");
        let mut start = [0; 1];
        files.read_at("config.json", 0, &mut start).unwrap();
        assert_eq!((&start, files.bytes_read()), (b"{", 1));
        assert_eq!(files.size("model-00001-of-00002.safetensors").unwrap(), None);
    }
}
