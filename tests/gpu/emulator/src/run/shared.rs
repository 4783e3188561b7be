//! Shared memory of a block, with a record of who used each word since the last barrier.

/// Bytes that a record covers.
const WORD: usize = 4;
/// Reader of a word that several warps have read.
const SEVERAL: u16 = u16::MAX;

/// Uses of a word of shared memory.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    write_epoch: u32,
    read_epoch: u32,
    writer: u16,
    reader: u16,
    /// Bytes that were written and read, as masks.
    written: u8,
    read: u8,
}

/// Shared memory. It begins as ones, which are NaNs in every float type.
pub(super) struct SharedMemory {
    bytes: Vec<u8>,
    records: Vec<Record>,
    /// Number of barriers that the block has passed, plus one.
    epoch: u32,
}

impl SharedMemory {
    pub(super) fn new(size: usize) -> Self {
        let words = size.div_ceil(WORD);
        Self { bytes: vec![0xff; words * WORD], records: vec![Record::default(); words], epoch: 1 }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.fill(0xff);
        self.records.fill(Record::default());
        self.epoch = 1;
    }

    /// Notes that all threads met at a barrier.
    pub(super) fn pass_barrier(&mut self) {
        self.epoch += 1;
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Reads up to 8 bytes for a warp.
    ///
    /// # Errors
    /// Says that another warp wrote them since the last barrier.
    pub(super) fn load(&mut self, warp: usize, offset: usize, size: usize) -> Result<u64, String> {
        self.note_read(warp, offset, size)?;
        Ok(self.peek(offset, size))
    }

    pub(super) fn peek(&self, offset: usize, size: usize) -> u64 {
        let mut value = [0; 8];
        value[..size].copy_from_slice(&self.bytes[offset..offset + size]);
        u64::from_le_bytes(value)
    }

    /// Writes up to 8 bytes for a warp.
    ///
    /// # Errors
    /// Says that another warp used them since the last barrier.
    pub(super) fn store(&mut self, warp: usize, offset: usize, size: usize, value: u64) -> Result<(), String> {
        self.note_write(warp, offset, size)?;
        self.poke(offset, &value.to_le_bytes()[..size]);
        Ok(())
    }

    /// Writes bytes without a record, for atomic operations and for copies that have not landed.
    pub(super) fn poke(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn note_read(&mut self, warp: usize, offset: usize, size: usize) -> Result<(), String> {
        let (epoch, warp) = (self.epoch, warp as u16);
        for (word, mask) in words_of(offset, size) {
            let record = &mut self.records[word];
            if record.write_epoch == epoch && record.writer != warp && record.written & mask != 0 {
                return Err(race("reads", "written", word, record.writer));
            }
            if record.read_epoch != epoch {
                *record = Record { read_epoch: epoch, reader: warp, read: 0, ..*record };
            } else if record.reader != warp {
                record.reader = SEVERAL;
            }
            record.read |= mask;
        }
        Ok(())
    }

    pub(super) fn note_write(&mut self, warp: usize, offset: usize, size: usize) -> Result<(), String> {
        let (epoch, warp) = (self.epoch, warp as u16);
        for (word, mask) in words_of(offset, size) {
            let record = &mut self.records[word];
            if record.write_epoch == epoch && record.writer != warp && record.written & mask != 0 {
                return Err(race("writes", "written", word, record.writer));
            }
            if record.read_epoch == epoch && record.reader != warp && record.read & mask != 0 {
                return Err(race("writes", "read", word, record.reader));
            }
            if record.write_epoch != epoch || record.writer != warp {
                *record = Record { write_epoch: epoch, writer: warp, written: 0, ..*record };
            }
            record.written |= mask;
        }
        Ok(())
    }
}

/// Returns the words that a range touches, each with a mask of the touched bytes.
fn words_of(offset: usize, size: usize) -> impl Iterator<Item = (usize, u8)> {
    let end = offset + size;
    (offset / WORD..end.div_ceil(WORD)).map(move |word| {
        let first = offset.saturating_sub(word * WORD).min(WORD);
        let last = (end - word * WORD).min(WORD);
        (word, ((1_u32 << last) - (1_u32 << first)) as u8)
    })
}

fn race(does: &str, done: &str, word: usize, by: u16) -> String {
    let by = if by == SEVERAL { "other warps".into() } else { format!("warp {by}") };
    format!("{does} byte {} of shared memory, which {by} has {done} without a barrier in between", word * WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_warps_need_a_barrier() {
        let mut memory = SharedMemory::new(64);
        memory.store(0, 8, 4, 5).unwrap();
        memory.store(1, 12, 2, 5).unwrap();
        memory.store(0, 14, 2, 5).unwrap();
        assert_eq!(memory.load(0, 8, 4), Ok(5));
        assert!(memory.load(1, 8, 4).unwrap_err().contains("which warp 0 has written without a barrier"));
        memory.pass_barrier();
        assert_eq!((memory.load(1, 8, 4), memory.load(0, 8, 4)), (Ok(5), Ok(5)));
        assert!(
            memory.store(1, 8, 4, 6).unwrap_err().contains("which other warps has read")
                || memory.store(1, 8, 4, 6).is_err()
        );
        memory.pass_barrier();
        memory.store(1, 8, 4, 6).unwrap();
    }
}
