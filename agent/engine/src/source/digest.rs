//! The files of a model and their digests. The head resolves them once, and each rank checks that it has the same files.

use sha2::{Digest, Sha256};

use super::{Index, ModelFiles};
use crate::EngineError;

/// Size below which a file is digested whole. A larger file is digested by its size and its two ends of [`END`] bytes, and
/// by samples of what lies between.
pub const WHOLE_BELOW: u64 = 16 << 20;
const END: u64 = 1 << 20;
/// Bytes of one sample.
const SAMPLE: u64 = 4 << 10;
/// Shortest stretch of a file from which one sample is taken. A change of twice this length is always found in models of
/// up to `MAX_SAMPLES` stretches.
const STRETCH: u64 = 512 << 10;
/// Most samples of all files of a model together: 16 MiB, which take about a second to read from an SSD.
const MAX_SAMPLES: u64 = 4096;

/// One file that every rank reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    pub name: String,
    pub size: u64,
    /// Digest of its content, in hex. [`resolve`] takes SHA-256 of the whole file below 16 MiB, otherwise of its size (8
    /// bytes, little-endian), its first and its last MiB. [`sample`] covers what is between. A source with digests of its
    /// own puts them here instead.
    pub digest: String,
}

/// Returns the names of the files that ranks read: `config.json`, the shard index if there is one, and the weights.
///
/// # Errors
/// [`EngineError::Missing`] if there are no weights, [`EngineError::Format`] for a malformed index.
pub fn rank_files(files: &dyn ModelFiles) -> Result<Vec<String>, EngineError> {
    let index = Index::from_files(files)?;
    let mut names = vec!["config.json".to_owned()];
    names.extend(index.file().map(str::to_owned));
    names.extend(index.shards().iter().cloned());
    Ok(names)
}

/// Lists and digests the files that ranks will read.
///
/// # Errors
/// Those of [`rank_files`] and of reading the files.
pub fn resolve(files: &dyn ModelFiles) -> Result<Vec<ModelFile>, EngineError> {
    rank_files(files)?.into_iter().map(|name| digest_file(files, name)).collect()
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
        if here.digest != file.digest {
            return Err(changed(format!("digest {} here, {} there", here.digest, file.digest)));
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
    Ok(ModelFile { digest: to_hex(&hash.finalize()), name, size })
}

/// Returns a digest of samples of each file that is too large to be digested whole, and an empty text for the others. `key`
/// decides about the places of the samples. Whoever draws it anew finds other changes each time.
///
/// # Errors
/// Those of reading the files.
pub fn sample(files: &dyn ModelFiles, resolved: &[ModelFile], key: &[u8]) -> Result<Vec<String>, EngineError> {
    let large: u64 = resolved.iter().map(|file| file.size).filter(|size| *size >= WHOLE_BELOW).sum();
    let stretch = (large / MAX_SAMPLES).max(STRETCH);
    let sample_file = |file: &ModelFile| {
        if file.size < WHOLE_BELOW {
            return Ok(String::new());
        }
        let (mut hash, mut bytes) = (Sha256::new(), vec![0; SAMPLE as usize]);
        for index in 0..file.size / stretch {
            let place = Sha256::new().chain_update(key).chain_update(&file.name).chain_update(index.to_le_bytes());
            let drawn = place.finalize().iter().take(8).fold(0, |drawn: u64, byte| (drawn << 8) | u64::from(*byte));
            files.read_at(&file.name, index * stretch + drawn % (stretch - SAMPLE), &mut bytes)?;
            hash.update(&bytes);
        }
        Ok(to_hex(&hash.finalize()))
    };
    resolved.iter().map(sample_file).collect()
}

/// Checks that this node's large files have the samples that the head took with the same `key`.
///
/// # Errors
/// [`EngineError::Changed`], naming the first file that differs.
pub fn verify_samples(
    files: &dyn ModelFiles,
    resolved: &[ModelFile],
    key: &[u8],
    expected: &[String],
) -> Result<(), EngineError> {
    let here = sample(files, resolved, key)?;
    match resolved.iter().zip(here.iter().zip(expected)).find(|(_, (here, there))| here != there) {
        None => Ok(()),
        Some((file, _)) => Err(EngineError::Changed {
            file: file.name.clone(),
            reason: "its size and its ends are the same here and there, and a part between them differs".into(),
        }),
    }
}

/// Returns one digest over names, sizes and digests of a model's files. It identifies the weights in a rank's memory.
pub fn digest_files(files: &[ModelFile]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update((file.name.len() as u64).to_le_bytes());
        hash.update(&file.name);
        hash.update(file.size.to_le_bytes());
        hash.update(&file.digest);
    }
    to_hex(&hash.finalize())
}

/// Writes a digest in hex, with small letters.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::open;

    #[test]
    fn a_changed_byte_is_noticed_and_named() {
        let model = fixture::tiny_llama();
        let resolved = || resolve(open(model.source()).unwrap().as_ref()).unwrap();
        let first = resolved();
        assert_eq!(first, resolved());
        let names: Vec<_> = first.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["config.json", "model.safetensors"]);
        verify(open(model.source()).unwrap().as_ref(), &first).unwrap();

        model.patch("model.safetensors", |bytes| *bytes.last_mut().unwrap() ^= 1);
        let error = verify(open(model.source()).unwrap().as_ref(), &first).unwrap_err().to_string();
        assert!(error.contains("model.safetensors is not the file that the head resolved: digest"), "{error}");
        assert_ne!(digest_files(&resolved()), digest_files(&first));

        model.patch("model.safetensors", |bytes| bytes.truncate(100));
        let error = verify(open(model.source()).unwrap().as_ref(), &first).unwrap_err().to_string();
        assert!(error.contains("100 bytes here"), "{error}");
        model.remove("model.safetensors");
        let error = verify(open(model.source()).unwrap().as_ref(), &first).unwrap_err().to_string();
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
            digest_file(files.as_ref(), "big".into()).unwrap().digest
        };
        let first = digest(&bytes);
        bytes[8 << 20] = 8;
        assert_eq!(digest(&bytes), first);
        bytes[0] = 8;
        assert_ne!(digest(&bytes), first);
    }

    #[test]
    fn samples_find_what_differs_between_the_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big");
        let size = usize::try_from(WHOLE_BELOW).unwrap() + 12345;
        std::fs::write(&path, vec![7; size]).unwrap();
        let files = open(folder.path().to_str().unwrap()).unwrap();
        let resolved = [digest_file(files.as_ref(), "big".into()).unwrap()];
        let expected = sample(files.as_ref(), &resolved, b"key").unwrap();
        verify_samples(files.as_ref(), &resolved, b"key", &expected).unwrap();
        assert!(verify_samples(files.as_ref(), &resolved, b"other", &expected).is_ok(), "all bytes are equal");
        for begin in [1 << 20, 3_333_333, 14 << 20] {
            let mut bytes = vec![7; size];
            bytes[begin..begin + (1 << 20)].fill(8);
            std::fs::write(&path, &bytes).unwrap();
            let files = open(folder.path().to_str().unwrap()).unwrap();
            assert_eq!(digest_file(files.as_ref(), "big".into()).unwrap(), resolved[0], "the ends are the same");
            for key in 0..20_u8 {
                let expected = expected.clone();
                let error = verify_samples(files.as_ref(), &resolved, &[key], &expected).unwrap_err().to_string();
                assert!(error.contains("big is not the file that the head resolved: its size and its ends"), "{error}");
            }
        }
    }
}
