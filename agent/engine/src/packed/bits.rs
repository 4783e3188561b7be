//! The packed numbers of a matrix, and their way into one byte each.

use std::ops::Range;

use crate::EngineError;
use crate::entry::Entry;
use crate::tensor_reader::TensorReader;

/// Bytes of a word.
const WORD: usize = 4;
/// Bits of a word.
const WORD_BITS: usize = 32;
/// Place of each of eight columns of an AWQ word, in units of four bits.
const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Order of the packed numbers of a matrix `[out, in]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BitOrder {
    /// One byte each: `[out, in]`.
    Bytes,
    /// Two in a byte, row after row. The even column is in the low half, or in the high half.
    Halves { even_is_high: bool },
    /// Words along the inputs: `[out, words]`. A number takes this many bits, and crosses no word.
    RowWords(usize),
    /// Words along the inputs: `[words, out]`. A number takes this many bits, the words are one stream.
    ColumnWords(usize),
    /// Words of eight outputs: `[in, words]`.
    Awq,
}

/// The packed numbers of a matrix.
#[derive(Debug)]
pub(super) struct PackedBits {
    pub entry: Entry,
    pub order: BitOrder,
    /// Columns of the matrix.
    pub columns: usize,
}

impl PackedBits {
    /// Reads some rows and columns, one byte a number. Returns the bytes with the strides of a row and of a column.
    pub(super) fn read(
        &self,
        reader: &TensorReader,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> Result<(Vec<u8>, [usize; 2]), EngineError> {
        let by_row = [columns.len(), 1];
        let by_column = [1, rows.len()];
        match self.order {
            BitOrder::Bytes => Ok((reader.read_rectangle(&self.entry, self.columns, rows, columns.clone())?, by_row)),
            BitOrder::Halves { even_is_high } => {
                let bytes = columns.start / 2..columns.end.div_ceil(2);
                let row_bytes = self.columns.div_ceil(2);
                let packed = reader.read_rectangle(&self.entry, row_bytes, rows, bytes.clone())?;
                let mut bits = Vec::with_capacity(rows.len() * columns.len());
                for row in packed.chunks_exact(bytes.len().max(1)) {
                    bits.extend(columns.clone().map(|column| {
                        let is_high = (column % 2 == 1) != even_is_high;
                        row[column / 2 - bytes.start] >> (4 * u8::from(is_high)) & 0x0F
                    }));
                }
                Ok((bits, by_row))
            }
            BitOrder::RowWords(width) => {
                let per_word = WORD_BITS / width;
                let words = columns.start / per_word..columns.end.div_ceil(per_word);
                let row_words = self.columns.div_ceil(per_word);
                let packed = self.read_words(reader, row_words, rows, &words)?;
                let mut bits = Vec::with_capacity(rows.len() * columns.len());
                for row in packed.chunks_exact(words.len().max(1)) {
                    let word = |column: usize| row[column / per_word - words.start];
                    let bits_of = |column: usize| low_bits(word(column) >> (column % per_word * width), width);
                    bits.extend(columns.clone().map(bits_of));
                }
                Ok((bits, by_row))
            }
            BitOrder::ColumnWords(width) => {
                let words = columns.start * width / WORD_BITS..(columns.end * width).div_ceil(WORD_BITS);
                let packed = self.read_words(reader, self.entry.shape[1], &words, rows)?;
                let mut bits = Vec::with_capacity(rows.len() * columns.len());
                for column in columns.clone() {
                    let (word, shift) = (column * width / WORD_BITS - words.start, column * width % WORD_BITS);
                    let low = &packed[word * rows.len()..][..rows.len()];
                    if shift + width <= WORD_BITS {
                        bits.extend(low.iter().map(|low| low_bits(low >> shift, width)));
                    } else {
                        let high = &packed[(word + 1) * rows.len()..][..rows.len()];
                        let joined = |(low, high): (&u32, &u32)| low >> shift | high << (WORD_BITS - shift);
                        bits.extend(low.iter().zip(high).map(|pair| low_bits(joined(pair), width)));
                    }
                }
                Ok((bits, by_column))
            }
            BitOrder::Awq => {
                let words = rows.start / 8..rows.end.div_ceil(8);
                let packed = self.read_words(reader, self.entry.shape[1], columns, &words)?;
                let mut bits = Vec::with_capacity(rows.len() * columns.len());
                for column in packed.chunks_exact(words.len().max(1)) {
                    bits.extend(rows.clone().map(|row| awq_bits(column, row, words.start)));
                }
                Ok((bits, by_column))
            }
        }
    }

    fn read_words(
        &self,
        reader: &TensorReader,
        row_words: usize,
        rows: &Range<usize>,
        words: &Range<usize>,
    ) -> Result<Vec<u32>, EngineError> {
        let bytes = words.start * WORD..words.end * WORD;
        Ok(words_of(&reader.read_rectangle(&self.entry, row_words * WORD, rows, bytes)?))
    }
}

/// Returns the words of little-endian bytes.
pub(super) fn words_of(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<WORD>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Returns the lowest `width` bits.
pub(super) fn low_bits(word: u32, width: usize) -> u8 {
    (word & ((1 << width) - 1)) as u8
}

/// Returns number `index` of a stream of numbers of `width` bits.
pub(super) fn stream_bits(words: &[u32], index: usize, width: usize) -> u8 {
    let (word, shift) = (index * width / WORD_BITS, index * width % WORD_BITS);
    let high = words.get(word + 1).map_or(0, |high| u64::from(*high) << WORD_BITS);
    low_bits(((u64::from(words[word]) | high) >> shift) as u32, width)
}

/// Returns number `index` of words in AWQ's order. `words` begin with word `first_word` of their row.
pub(super) fn awq_bits(words: &[u32], index: usize, first_word: usize) -> u8 {
    low_bits(words[index / 8 - first_word] >> (4 * AWQ_PLACES[index % 8]), 4)
}
