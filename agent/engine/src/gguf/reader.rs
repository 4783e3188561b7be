//! Numbers and strings from the start of a file, read ahead in pieces. Every length is checked before memory is taken.

use crate::EngineError;

/// Size of the largest header: several times that of the largest vocabulary known.
const MAX_HEADER: u64 = 128 << 20;
/// Bytes read at once.
const AHEAD: usize = 64 << 10;

/// Function that fills a buffer from an offset in the file on.
pub type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), EngineError> + 'a;

/// A place in a file.
pub struct Reader<'a> {
    file: &'a str,
    size: u64,
    read: &'a mut ReadAt<'a>,
    ahead: Vec<u8>,
    /// Offset of the first byte in `ahead`.
    start: u64,
    offset: u64,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a str, size: u64, read: &'a mut ReadAt<'a>) -> Self {
        Self { file, size, read, ahead: Vec::new(), start: 0, offset: 0 }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn wrong(&self, reason: impl std::fmt::Display) -> EngineError {
        EngineError::format(self.file, format!("at offset {}: {reason}", self.offset))
    }

    /// Returns the most bytes that the header can have from here on.
    pub fn remaining(&self) -> u64 {
        self.size.min(MAX_HEADER).saturating_sub(self.offset)
    }

    /// Returns the next `length` bytes.
    pub fn bytes(&mut self, length: u64) -> Result<&[u8], EngineError> {
        if length > self.remaining() {
            let expected = self.offset.saturating_add(length);
            if expected > self.size {
                return Err(EngineError::Truncated { file: self.file.into(), size: self.size, expected });
            }
            return Err(self.wrong(format!("the header is more than {MAX_HEADER} bytes")));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut from = usize::try_from(self.offset - self.start).unwrap_or(usize::MAX);
        if from.saturating_add(length) > self.ahead.len() {
            let rest = usize::try_from(self.remaining()).unwrap_or(usize::MAX);
            self.ahead.resize(length.max(AHEAD).min(rest), 0);
            (self.read)(self.offset, &mut self.ahead)?;
            (self.start, from) = (self.offset, 0);
        }
        self.offset += length as u64;
        Ok(&self.ahead[from..from + length])
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], EngineError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N as u64)?);
        Ok(array)
    }

    pub fn u32(&mut self) -> Result<u32, EngineError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, EngineError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a text in UTF-8. Bytes that are not UTF-8 become U+FFFD, for tokens may be cut anywhere.
    pub fn string(&mut self) -> Result<String, EngineError> {
        let length = self.u64()?;
        Ok(String::from_utf8_lossy(self.bytes(length)?).into_owned())
    }
}
