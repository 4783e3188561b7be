//! The archive of the tokenizer's files.

use std::fmt::Write as _;
use std::io::{Cursor, Write as _};

use lockstep_proto::smg::grpc::common::GetTokenizerChunk;
use sha2::{Digest, Sha256};
use tonic::Status;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Bytes of the archive in one message. Clients take messages of 4 MiB.
const CHUNK_BYTES: usize = 1 << 20;

/// A ZIP archive and its digest.
pub(super) struct Archive {
    bytes: Vec<u8>,
    sha256: String,
}

impl Archive {
    /// Packs files. The archive stores them as they are: it is read once by each router.
    ///
    /// # Errors
    /// There is no file, or they are more than an archive can hold.
    pub(super) fn new(files: &[(String, Vec<u8>)]) -> Result<Self, Status> {
        if files.is_empty() {
            return Err(Status::not_found("GetTokenizer: this head has no files of a tokenizer"));
        }
        let bytes = pack(files).map_err(|error| Status::internal(format!("pack the tokenizer's files: {error}")))?;
        let mut sha256 = String::new();
        for byte in Sha256::digest(&bytes) {
            write!(sha256, "{byte:02x}").map_err(|error| Status::internal(error.to_string()))?;
        }
        Ok(Self { bytes, sha256 })
    }

    /// Returns the number of messages.
    pub(super) fn chunks(&self) -> usize {
        self.bytes.len().div_ceil(CHUNK_BYTES)
    }

    /// Returns the message at that index. The last one has the digest.
    pub(super) fn chunk(&self, at: usize) -> GetTokenizerChunk {
        let start = at * CHUNK_BYTES;
        let end = self.bytes.len().min(start + CHUNK_BYTES);
        let sha256 = if end == self.bytes.len() { self.sha256.clone() } else { String::new() };
        GetTokenizerChunk { data: self.bytes[start..end].to_vec(), sha256 }
    }
}

fn pack(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>, ZipError> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        archive.start_file(name.as_str(), options)?;
        archive.write_all(content)?;
    }
    Ok(archive.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn files_come_back_from_the_chunks() {
        let large: Vec<u8> = (0..3 * CHUNK_BYTES).map(|at| (at % 251) as u8).collect();
        let files = [("tokenizer.json".to_owned(), large), ("config.json".to_owned(), b"{}".to_vec())];
        let archive = Archive::new(&files).unwrap();
        let chunks: Vec<_> = (0..archive.chunks()).map(|at| archive.chunk(at)).collect();
        assert_eq!(chunks.len(), 4);
        assert!(chunks[..3].iter().all(|chunk| chunk.sha256.is_empty()));
        let bytes: Vec<u8> = chunks.iter().flat_map(|chunk| &chunk.data).copied().collect();
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(chunks[3].sha256, digest);
        let mut unpacked = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        for (name, content) in files {
            let mut read = Vec::new();
            unpacked.by_name(&name).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, content, "{name}");
        }
        assert!(Archive::new(&[]).is_err());
    }
}
