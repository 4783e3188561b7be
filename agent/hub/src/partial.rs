//! A partial file, written by pieces in any order. It records its pieces, so another process can continue it.
//!
//! A trailer follows the file's bytes: a mark of 8 bytes, the size of a piece (8 bytes, little-endian), and a byte for each
//! piece, which is 1 once the piece is written. After a crash of the machine, the trailer may be wrong. So the digest of the
//! whole file decides.

use std::fs::File;
use std::io::{Read, Seek as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lockstep_engine::source::open_regular;

use crate::content::ContentId;

/// Mark at the beginning of the trailer.
const MARK: &[u8; 8] = b"lockstep";
/// Bytes of the trailer before the bytes of the pieces.
const TRAILER: u64 = 16;

#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    size: u64,
    piece: u64,
    done: Mutex<Vec<bool>>,
}

impl Partial {
    /// Opens the partial file at `path`. Begins a new one if the sizes of the file or its pieces differ.
    ///
    /// # Errors
    /// The operating system fails.
    pub(crate) fn open(path: PathBuf, size: u64, piece: u64) -> std::io::Result<Self> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
        let pieces = usize::try_from(size.div_ceil(piece)).unwrap_or(usize::MAX);
        let done = match read_pieces(&file, size, piece)? {
            Some(done) => done,
            None => {
                file.set_len(0)?;
                file.set_len(size + TRAILER + pieces as u64)?;
                file.write_all_at(&trailer(piece), size)?;
                vec![false; pieces]
            }
        };
        Ok(Self { path, file, size, piece, done: Mutex::new(done) })
    }

    /// Returns the bytes in the partial file at `path`, also for a process without its lock. 0 if there is no file.
    pub(crate) fn bytes_at(path: &Path, size: u64, piece: u64) -> u64 {
        let done = open_regular(path).and_then(|file| read_pieces(&file, size, piece)).ok().flatten();
        done.map_or(0, |done| bytes_done(&done, size, piece))
    }

    fn done(&self) -> MutexGuard<'_, Vec<bool>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bytes_done(&self) -> u64 {
        bytes_done(&self.done(), self.size, self.piece)
    }

    /// Returns the range of the piece that begins at `offset`.
    pub(crate) fn piece_at(&self, offset: u64) -> Range<u64> {
        offset..(offset + self.piece).min(self.size)
    }

    /// Returns the missing ranges, of at most `max_pieces` pieces each.
    pub(crate) fn missing(&self, max_pieces: u64) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (index, _) in self.done().iter().enumerate().filter(|(_, done)| !**done) {
            let piece = self.piece_at(index as u64 * self.piece);
            match ranges.last_mut() {
                Some(range) if range.end == piece.start && piece.start - range.start < max_pieces * self.piece => {
                    range.end = piece.end
                }
                _ => ranges.push(piece),
            }
        }
        ranges
    }

    /// Returns true if the piece that contains `offset` is written.
    pub(crate) fn has_piece(&self, offset: u64) -> bool {
        let index = usize::try_from(offset / self.piece).unwrap_or(usize::MAX);
        self.done().get(index).copied().unwrap_or(false)
    }

    /// Writes the whole piece that begins at `offset`, and then its byte in the trailer.
    ///
    /// # Errors
    /// The operating system fails.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        debug_assert_eq!(bytes.len() as u64, self.piece_at(offset).end - offset, "a whole piece");
        self.file.write_all_at(bytes, offset)?;
        let index = offset / self.piece;
        self.file.write_all_at(&[1], self.size + TRAILER + index)?;
        self.done()[index as usize] = true;
        Ok(())
    }

    /// Returns the digest of the file, with the same hash function as `id`. Calls `on_block` with the number of bytes of each
    /// block.
    ///
    /// # Errors
    /// The operating system fails.
    pub(crate) fn digest(&self, id: &ContentId, on_block: &mut dyn FnMut(u64)) -> std::io::Result<ContentId> {
        let mut file = &self.file;
        file.rewind()?;
        id.hash_same_kind(&mut file.take(self.size), self.size, on_block)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Completes the file and renames it to `to`. No write may follow.
    ///
    /// # Errors
    /// The operating system fails.
    pub(crate) fn finish(&self, to: &Path) -> std::io::Result<()> {
        self.file.set_len(self.size)?;
        self.file.sync_all()?;
        std::fs::rename(&self.path, to)
    }

    /// Removes the file.
    ///
    /// # Errors
    /// The operating system fails.
    pub(crate) fn discard(&self) -> std::io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

fn trailer(piece: u64) -> [u8; TRAILER as usize] {
    let mut bytes = [0; TRAILER as usize];
    bytes[..8].copy_from_slice(MARK);
    bytes[8..].copy_from_slice(&piece.to_le_bytes());
    bytes
}

/// Returns the bytes of the pieces in the trailer, or `None` if the file has no such trailer.
fn read_pieces(file: &File, size: u64, piece: u64) -> std::io::Result<Option<Vec<bool>>> {
    let pieces = size.div_ceil(piece);
    if file.metadata()?.len() != size.saturating_add(TRAILER).saturating_add(pieces) {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(TRAILER + pieces).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, size)?;
    let (head, pieces) = bytes.split_at(TRAILER as usize);
    Ok((head == trailer(piece)).then(|| pieces.iter().map(|piece| *piece == 1).collect()))
}

fn bytes_done(done: &[bool], size: u64, piece: u64) -> u64 {
    let whole = done.iter().filter(|done| **done).count() as u64 * piece;
    // The last piece may be shorter.
    let short = (piece - size % piece) % piece;
    if done.last() == Some(&true) { whole - short } else { whole }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parts");
        let open = |size, piece| Partial::open(path.clone(), size, piece).unwrap();
        assert_eq!(Partial::bytes_at(&path, 10, 4), 0);
        let partial = open(10, 4);
        assert_eq!(partial.missing(2), [0..8, 8..10]);
        assert_eq!(partial.missing(9), vec![0..10]);
        partial.write(8, b"89").unwrap();
        partial.write(0, b"0123").unwrap();
        assert_eq!((partial.bytes_done(), Partial::bytes_at(&path, 10, 4)), (6, 6));
        drop(partial);
        let partial = open(10, 4);
        assert_eq!(partial.missing(9), vec![4..8]);
        assert!(partial.has_piece(0) && !partial.has_piece(4) && partial.has_piece(9));
        partial.write(4, b"4567").unwrap();
        assert!(partial.missing(9).is_empty());
        let id: ContentId = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882".parse().unwrap();
        assert_eq!(partial.digest(&id, &mut |_| ()).unwrap(), id);
        let whole = folder.path().join("whole");
        partial.finish(&whole).unwrap();
        assert_eq!(std::fs::read(&whole).unwrap(), b"0123456789");
        assert!(!path.exists());
    }

    #[test]
    fn a_file_with_other_sizes_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parts");
        let open = |size, piece| Partial::open(path.clone(), size, piece).unwrap();
        open(10, 4).write(0, b"0123").unwrap();
        assert_eq!(open(10, 5).bytes_done(), 0, "other pieces");
        assert_eq!(open(11, 5).bytes_done(), 0, "another size");
        std::fs::write(&path, b"not a download").unwrap();
        assert_eq!(open(10, 4).missing(9), vec![0..10]);
        assert_eq!(open(0, 4).missing(9), Vec::<Range<u64>>::new());
        open(0, 4).discard().unwrap();
        assert!(!path.exists());
    }
}
