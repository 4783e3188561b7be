//! A GGUF file, seen as the folder that the same model has on the hub. Its metadata become JSON files, and its weights are
//! `model.gguf`. The further parts of a model in several files are `model-00002.gguf` and so on.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::config::config;
use super::header::{Header, MAGIC};
use super::rope::RopeFactors;
use super::tokenizer::{tokenizer, tokenizer_config, warning};
use crate::EngineError;
use crate::source::{FolderFiles, ModelFiles, Offers, SplitName, gguf_part, is_gguf_name, open_regular, read_slice};

/// One GGUF file, or all parts of a model in several.
#[derive(Debug)]
pub struct GgufFiles {
    files: Arc<dyn ModelFiles>,
    /// Names of the parts among the files, in order.
    parts: Vec<String>,
    /// Files that are made of the metadata: name and content.
    made: Vec<(&'static str, Vec<u8>)>,
    warnings: Vec<String>,
}

impl GgufFiles {
    /// Opens the file at `path`, or all parts of the model whose first part it is, and reads the headers.
    ///
    /// # Errors
    /// [`EngineError::Source`], and those of [`GgufFiles::from_parts`].
    pub fn open(source: &str, path: &Path) -> Result<Self, EngineError> {
        let refuse = |reason: String| EngineError::Source { origin: source.into(), reason };
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| refuse("it names no file".into()))?;
        let parts = match SplitName::parse(name) {
            Some(split) => split.all_parts().map_err(refuse)?,
            None => vec![name.to_owned()],
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::from_parts(Arc::new(FolderFiles::open(source, parent)?), parts)
    }

    /// Reads the headers of the model whose parts, in order, have these names among `files`.
    ///
    /// # Errors
    /// [`EngineError::Format`], [`EngineError::Truncated`], [`EngineError::Missing`], [`EngineError::Architecture`].
    pub fn from_parts(files: Arc<dyn ModelFiles>, parts: Vec<String>) -> Result<Self, EngineError> {
        let header = read_parts(files.as_ref(), &parts)?;
        let rope = RopeFactors::from_header(&header, &mut |tensor, buffer| {
            files.read_at(&tensor.part.name, tensor.offset, buffer)
        })?;
        let config = config(&header, &rope)?;
        let bytes = |json: Value| json.to_string().into_bytes();
        let made = vec![
            ("config.json", bytes(config)),
            ("tokenizer.json", bytes(tokenizer(&header)?)),
            ("tokenizer_config.json", bytes(tokenizer_config(&header)?)),
        ];
        Ok(Self { files, parts, made, warnings: warning(&header)?.into_iter().collect() })
    }

    fn made(&self, name: &str) -> Option<&[u8]> {
        self.made.iter().find(|(made, _)| *made == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// Returns the part that is called `name` here.
    fn find_part(&self, name: &str) -> Option<&str> {
        let index = (0..self.parts.len()).find(|index| gguf_part(*index) == name)?;
        Some(&self.parts[index])
    }
}

/// Returns the one GGUF file of a folder without a checkpoint, or the first part of the one model in it.
///
/// # Errors
/// [`EngineError::Source`] if the folder has several.
pub fn only_gguf(source: &str, folder: &Path) -> Result<Option<PathBuf>, EngineError> {
    let Ok(offers) = Offers::in_folder(folder) else { return Ok(None) };
    match offers.ggufs() {
        _ if offers.has_checkpoint() => Ok(None),
        [] => Ok(only_unnamed_gguf(folder)),
        [model] => Ok(Some(folder.join(model.first_part()))),
        _ => Err(offers.refuse(source, "it holds several GGUF files: name one of them")),
    }
}

/// Returns the one file of a folder without `config.json` that is a GGUF file, though its name does not say so.
fn only_unnamed_gguf(folder: &Path) -> Option<PathBuf> {
    if folder.join("config.json").exists() {
        return None;
    }
    let paths = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found = paths.filter(|path| is_gguf(path));
    found.next().filter(|_| found.next().is_none())
}

/// Returns true for a file whose name ends in `.gguf`, and for one that begins as a GGUF file does: some stores name their
/// files by a digest.
pub fn is_gguf(path: &Path) -> bool {
    let begins_so = || {
        let mut magic = [0; MAGIC.len()];
        open_regular(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok_and(|()| magic == *MAGIC)
    };
    path.to_str().is_some_and(is_gguf_name) || begins_so()
}

/// Reads the headers of the parts `names`, as one.
///
/// # Errors
/// [`EngineError::Missing`], [`EngineError::Format`], [`EngineError::Truncated`].
pub fn read_parts(files: &dyn ModelFiles, names: &[String]) -> Result<Header, EngineError> {
    const COUNT: &str = "split.count";
    let (first, others) = names.split_first().ok_or_else(|| EngineError::Usage("a GGUF file has a name".into()))?;
    let mut header = read_header(files, first)?;
    let count = header.integer(COUNT)?.unwrap_or(0);
    if count > 1 && usize::try_from(count) != Ok(names.len()) {
        let reason = format!(
            "the model is in {count} parts, and {} is here: keep the names of all parts, NAME-00001-of-{count:05}.gguf and \
             so on",
            names.len()
        );
        return Err(header.wrong(COUNT, reason));
    }
    for name in others {
        header.join(read_header(files, name)?);
    }
    Ok(header)
}

fn read_header(files: &dyn ModelFiles, name: &str) -> Result<Header, EngineError> {
    let missing = || EngineError::Missing { file: name.into(), origin: files.source().into() };
    let size = files.size(name)?.ok_or_else(missing)?;
    Header::parse(name, size, |offset, buffer| files.read_at(name, offset, buffer))
}

impl ModelFiles for GgufFiles {
    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn source(&self) -> &str {
        self.files.source()
    }

    fn size(&self, name: &str) -> Result<Option<u64>, EngineError> {
        match self.find_part(name) {
            Some(part) => self.files.size(part),
            None => Ok(self.made(name).map(|bytes| bytes.len() as u64)),
        }
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), EngineError> {
        if let Some(part) = self.find_part(name) {
            return self.files.read_at(part, offset, buffer);
        }
        let missing = || EngineError::Missing { file: name.into(), origin: self.source().into() };
        let bytes = self.made(name).ok_or_else(missing)?;
        read_slice(name, bytes, offset, buffer)
    }

    fn bytes_read(&self) -> u64 {
        self.files.bytes_read()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::ModelConfig;
    use crate::open;
    use crate::weights::Weights;

    const WHOLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/parity/gguf/mixtral.gguf");
    /// Magic, version, and the numbers of tensors and values.
    const COUNTS: usize = 24;

    fn number(bytes: &[u8], at: usize) -> usize {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
    }

    /// Returns the end of the value of type `kind` at `at`.
    fn value_end(bytes: &[u8], at: usize, kind: u32) -> usize {
        match kind {
            0 | 1 | 7 => at + 1,
            2 | 3 => at + 2,
            4..=6 => at + 4,
            8 => at + 8 + number(bytes, at),
            9 => {
                let kind = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
                (0..number(bytes, at + 4)).fold(at + 12, |at, _| value_end(bytes, at, kind))
            }
            _ => at + 8,
        }
    }

    /// Writes the model as two parts: the values, and the tensors.
    fn split(folder: &Path) {
        let whole = std::fs::read(WHOLE).unwrap();
        let (tensors, values) = (number(&whole, 8), number(&whole, 16));
        let values_end = (0..values).fold(COUNTS, |at, _| {
            let key_end = at + 8 + number(&whole, at);
            value_end(&whole, key_end + 4, u32::from_le_bytes(whole[key_end..key_end + 4].try_into().unwrap()))
        });
        let infos_end = (0..tensors).fold(values_end, |at, _| {
            let name_end = at + 8 + number(&whole, at);
            let dimensions = u32::from_le_bytes(whole[name_end..name_end + 4].try_into().unwrap()) as usize;
            name_end + 4 + 8 * dimensions + 4 + 8
        });
        let counts = |tensors: usize, values: usize| {
            [&whole[..8], &(tensors as u64).to_le_bytes(), &(values as u64).to_le_bytes()].concat()
        };
        let first = [counts(0, values), whole[COUNTS..values_end].to_vec()].concat();
        let mut second = [counts(tensors, 0), whole[values_end..infos_end].to_vec()].concat();
        second.resize(second.len().next_multiple_of(32), 0);
        second.extend_from_slice(&whole[infos_end.next_multiple_of(32)..]);
        std::fs::write(folder.join("m-00001-of-00002.gguf"), first).unwrap();
        std::fs::write(folder.join("m-00002-of-00002.gguf"), second).unwrap();
    }

    #[test]
    fn a_model_in_parts_is_the_whole_model() {
        let folder = tempfile::tempdir().unwrap();
        split(folder.path());
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let whole = open(WHOLE).unwrap();
        let config = ModelConfig::from_files(whole.as_ref()).unwrap();
        let read = |files: Arc<dyn ModelFiles>| {
            let rows = Weights::open(files).unwrap().blocks(
                "model.layers.1.self_attn.q_proj.weight",
                [config.num_heads * config.head_dim, config.hidden_size],
                &(3..9),
                &(0..config.hidden_size),
            );
            rows.unwrap()
        };
        let expected = read(whole);
        for source in [path(""), path("m-00001-of-00002.gguf")] {
            let files = open(&source).unwrap();
            assert_eq!(ModelConfig::from_files(files.as_ref()).unwrap(), config);
            assert_eq!(crate::source::rank_files(files.as_ref()).unwrap()[1..], ["model.gguf", "model-00002.gguf"]);
            assert_eq!(read(files), expected);
        }
        let refused = |source: String| open(&source).unwrap_err().to_string();
        assert!(refused(path("m-00002-of-00002.gguf")).contains("name the first, m-00001-of-00002.gguf"));
        std::fs::remove_file(path("m-00002-of-00002.gguf")).unwrap();
        let message = refused(path(""));
        assert!(message.contains("m-00002-of-00002.gguf is missing"), "{message}");
    }

    #[test]
    fn a_file_is_known_by_its_first_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sha256-0123");
        std::fs::copy(WHOLE, &path).unwrap();
        ModelConfig::from_files(open(path.to_str().unwrap()).unwrap().as_ref()).unwrap();
        std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\n").unwrap();
        let named = folder.path().join("model.gguf");
        std::fs::rename(&path, &named).unwrap();
        let message = open(named.to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("pointer of git-lfs"), "{message}");
    }
}
