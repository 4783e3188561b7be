//! Which files a model is, fixed once by the head: each rank checks that it has the very same.

use sha2::{Digest, Sha256};

use super::{ModelFiles, open};
use crate::EngineError;
use crate::weights::Index;

/// Files below this are digested whole, larger ones by their size and their two ends of [`END`] bytes.
pub const WHOLE_BELOW: u64 = 16 << 20;
const END: u64 = 1 << 20;

/// One file that every rank reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    pub name: String,
    pub size: u64,
    /// SHA-256 in hex: of the whole file below 16 MiB, else of its size (8 bytes, little-endian), its first and its
    /// last MiB.
    pub sha256: String,
}

/// A model as the head resolved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// As it was asked for.
    pub source: String,
    /// `config.json`, the shard index where there is one, and the weights.
    pub files: Vec<ModelFile>,
    /// Over names, sizes and digests of the files: names what must be in memory.
    pub digest: String,
}

/// Lists and digests what ranks will read of `source`.
///
/// # Errors
/// As [`open`], and whatever reading the files meets.
pub fn resolve(source: &str) -> Result<ResolvedModel, EngineError> {
    let files = open(source)?;
    let index = Index::read(files.as_ref())?;
    let mut names = vec!["config.json".to_owned()];
    names.extend(index.file().map(str::to_owned));
    names.extend(index.shards().iter().cloned());
    let files = names.into_iter().map(|name| digest_file(files.as_ref(), name)).collect::<Result<Vec<_>, _>>()?;
    let digest = digest_of(&files);
    Ok(ResolvedModel { source: source.into(), files, digest })
}

/// Checks that this node's files are the ones that the head resolved.
///
/// # Errors
/// [`EngineError::Missing`] or [`EngineError::Changed`], naming the first file that differs.
pub fn verify(files: &dyn ModelFiles, expected: &[ModelFile]) -> Result<(), EngineError> {
    for file in expected {
        let changed = |reason: String| EngineError::Changed { file: file.name.clone(), reason };
        match files.size(&file.name)? {
            Some(size) if size == file.size => {}
            Some(size) => return Err(changed(format!("{size} bytes here, {} there", file.size))),
            None => return Err(EngineError::Missing { file: file.name.clone(), origin: files.source().into() }),
        }
        let here = digest_file(files, file.name.clone())?;
        if here.sha256 != file.sha256 {
            return Err(changed(format!("digest {} here, {} there", here.sha256, file.sha256)));
        }
    }
    Ok(())
}

fn digest_file(files: &dyn ModelFiles, name: String) -> Result<ModelFile, EngineError> {
    let missing = || EngineError::Missing { file: name.clone(), origin: files.source().into() };
    let size = files.size(&name)?.ok_or_else(missing)?;
    let mut hash = Sha256::new();
    let parts = if size < WHOLE_BELOW {
        vec![(0, size)]
    } else {
        hash.update(size.to_le_bytes());
        vec![(0, END), (size - END, END)]
    };
    for (offset, length) in parts {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        files.read_at(&name, offset, &mut bytes)?;
        hash.update(&bytes);
    }
    Ok(ModelFile { sha256: hex(&hash.finalize()), name, size })
}

fn digest_of(files: &[ModelFile]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update((file.name.len() as u64).to_le_bytes());
        hash.update(&file.name);
        hash.update(file.size.to_le_bytes());
        hash.update(&file.sha256);
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_changed_byte_is_noticed_and_named() {
        let model = fixture::tiny_llama();
        let resolved = resolve(model.source()).unwrap();
        assert_eq!(resolved, resolve(model.source()).unwrap());
        let names: Vec<_> = resolved.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["config.json", "model.safetensors"]);
        verify(open(model.source()).unwrap().as_ref(), &resolved.files).unwrap();

        model.patch("model.safetensors", |bytes| *bytes.last_mut().unwrap() ^= 1);
        let error = verify(open(model.source()).unwrap().as_ref(), &resolved.files).unwrap_err().to_string();
        assert!(error.contains("model.safetensors is not the file that the head resolved: digest"), "{error}");
        assert_ne!(resolve(model.source()).unwrap().digest, resolved.digest);

        model.patch("model.safetensors", |bytes| bytes.truncate(100));
        let error = verify(open(model.source()).unwrap().as_ref(), &resolved.files).unwrap_err().to_string();
        assert!(error.contains("100 bytes here"), "{error}");
        model.remove("model.safetensors");
        let error = verify(open(model.source()).unwrap().as_ref(), &resolved.files).unwrap_err().to_string();
        assert!(error.contains("model.safetensors is missing"), "{error}");
    }

    #[test]
    fn large_files_are_digested_by_their_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big");
        let mut bytes = vec![7; usize::try_from(WHOLE_BELOW).unwrap()];
        let digest = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let files = open(folder.path().to_str().unwrap()).unwrap();
            digest_file(files.as_ref(), "big".into()).unwrap().sha256
        };
        let first = digest(&bytes);
        bytes[8 << 20] = 8;
        assert_eq!(digest(&bytes), first);
        bytes[0] = 8;
        assert_ne!(digest(&bytes), first);
    }
}
