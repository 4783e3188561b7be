//! Reading of parts of tensors. The reader counts the bytes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::EngineError;
use crate::entry::Entry;
use crate::source::ModelFiles;

/// Bytes of a row below which rows are read in stripes, with the gaps between them. A call costs about as much as copying
/// a few KiB.
const STRIPE_BELOW: usize = 2 << 10;
/// Size of one stripe.
const STRIPE: usize = 1 << 20;

/// Reader of the weight files of a model.
#[derive(Debug)]
pub(crate) struct TensorReader {
    files: Arc<dyn ModelFiles>,
    bytes_read: AtomicU64,
}

impl TensorReader {
    pub(crate) fn new(files: Arc<dyn ModelFiles>) -> Self {
        Self { files, bytes_read: AtomicU64::new(0) }
    }

    /// Returns the source of the model.
    pub(crate) fn source(&self) -> &str {
        self.files.source()
    }

    /// Returns the bytes read so far, gaps of stripes included.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Fills `buffer` with bytes of a tensor from `offset` on.
    pub(crate) fn read(&self, entry: &Entry, offset: u64, buffer: &mut [u8]) -> Result<(), EngineError> {
        self.files.read_at(&entry.file, entry.offset + offset, buffer)?;
        self.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Reads all bytes of a tensor.
    pub(crate) fn read_all(&self, entry: &Entry) -> Result<Vec<u8>, EngineError> {
        let mut bytes = vec![0; usize::try_from(entry.bytes).unwrap_or(usize::MAX)];
        self.read(entry, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads the bytes `wanted` of some rows of `row_bytes` each, row after row.
    pub(crate) fn read_rectangle(
        &self,
        entry: &Entry,
        row_bytes: usize,
        rows: &Range<usize>,
        wanted: Range<usize>,
    ) -> Result<Vec<u8>, EngineError> {
        let mut bytes = vec![0; rows.len() * wanted.len()];
        if wanted.len() == row_bytes {
            self.read(entry, (rows.start * row_bytes) as u64, &mut bytes)?;
        } else if wanted.len() < STRIPE_BELOW {
            self.read_stripes(entry, row_bytes, rows, &wanted, &mut bytes)?;
        } else {
            for (row, part) in rows.clone().zip(bytes.chunks_exact_mut(wanted.len())) {
                self.read(entry, (row * row_bytes + wanted.start) as u64, part)?;
            }
        }
        Ok(bytes)
    }

    fn read_stripes(
        &self,
        entry: &Entry,
        row_bytes: usize,
        rows: &Range<usize>,
        wanted: &Range<usize>,
        bytes: &mut [u8],
    ) -> Result<(), EngineError> {
        let rows_per_stripe = (STRIPE / row_bytes.max(1)).max(1);
        let mut stripe = Vec::new();
        let mut first = rows.start;
        for part in bytes.chunks_mut((rows_per_stripe * wanted.len()).max(1)) {
            let rows = part.len() / wanted.len();
            stripe.resize((rows - 1) * row_bytes + wanted.len(), 0);
            self.read(entry, (first * row_bytes + wanted.start) as u64, &mut stripe)?;
            for (row, to) in part.chunks_exact_mut(wanted.len()).enumerate() {
                to.copy_from_slice(&stripe[row * row_bytes..][..wanted.len()]);
            }
            first += rows;
        }
        Ok(())
    }
}
