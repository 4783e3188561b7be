//! One tensor in a weight file.

use std::ops::Range;
use std::sync::Arc;

use candle_core::DType;
use lockstep_kernels::BlockFormat;

use crate::EngineError;

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    Float(DType),
    /// Rows of blocks; the columns fill the last one.
    Blocks(BlockFormat),
    /// Something that is not read, by its name.
    Other(String),
}

/// In which order a tensor's rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As they are meant.
    Plain,
    /// In heads of so many rows, whose two halves take turns: GGUF files of the `llama` architecture have queries and
    /// keys so, for a rotation of neighbours.
    Interleaved(usize),
}

/// The type that numbers stored in `stored` are kept in without rounding, where others are kept in `dtype`.
pub fn unrounded(stored: DType, dtype: DType) -> DType {
    if stored == dtype { dtype } else { DType::F32 }
}

/// Where a tensor lies.
#[derive(Debug)]
pub struct Entry {
    pub file: Arc<str>,
    pub shape: Vec<usize>,
    /// Of its first byte, from the start of the file.
    pub offset: u64,
    /// Of its data.
    pub bytes: u64,
    pub stored: Stored,
    pub order: RowOrder,
}

impl Entry {
    /// Type as a tensor's; `name` is for the error.
    pub fn dtype(&self, name: &str) -> Result<DType, EngineError> {
        match self.stored {
            Stored::Float(dtype) => Ok(dtype),
            _ => Err(self.refuse_dtype(name)),
        }
    }

    /// Whether it is a matrix; else a vector.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() > 1
    }

    /// Bytes that it takes in memory: a floating-point matrix in `dtype`, or in blocks where it is `quantized`; a vector
    /// in f32; blocks as they are stored.
    pub fn in_memory(&self, dtype: DType, quantized: Option<BlockFormat>) -> u64 {
        let elements = self.shape.iter().product::<usize>() as u64;
        let columns = self.shape.last().copied().unwrap_or(1).max(1) as u64;
        match (&self.stored, quantized) {
            (Stored::Float(_), Some(format)) if self.is_matrix() => {
                elements / columns * columns.div_ceil(format.columns() as u64) * format.bytes() as u64
            }
            (Stored::Float(_), _) if self.is_matrix() => elements * dtype.size_in_bytes() as u64,
            (Stored::Float(_), _) => elements * DType::F32.size_in_bytes() as u64,
            _ => self.bytes,
        }
    }

    /// The error for a type that cannot be used.
    pub fn refuse_dtype(&self, name: &str) -> EngineError {
        let found = match &self.stored {
            Stored::Float(dtype) => dtype.as_str().to_uppercase(),
            Stored::Blocks(format) => format.name().to_uppercase(),
            Stored::Other(found) => found.clone(),
        };
        EngineError::Dtype { tensor: name.into(), file: self.file.to_string(), found }
    }

    /// Bytes of one row of columns.
    pub fn row_bytes(&self) -> usize {
        let rows = self.shape.first().copied().unwrap_or(1).max(1);
        usize::try_from(self.bytes).unwrap_or(usize::MAX) / rows
    }

    /// Stored rows that hold the rows `rows`.
    pub fn stored_rows(&self, rows: &Range<usize>) -> Range<usize> {
        match self.order {
            RowOrder::Plain => rows.clone(),
            RowOrder::Interleaved(head) => rows.start / head * head..rows.end.next_multiple_of(head),
        }
    }

    /// Where row `row` is stored.
    pub fn stored_row(&self, row: usize) -> usize {
        match self.order {
            RowOrder::Plain => row,
            RowOrder::Interleaved(head) => {
                let (first, within, half) = (row / head * head, row % head, head / 2);
                first + within % half * 2 + within / half
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_rows_are_found() {
        let entry = Entry {
            file: "w".into(),
            shape: vec![12, 5],
            offset: 0,
            bytes: 12 * 5 * 4,
            stored: Stored::Float(DType::F32),
            order: RowOrder::Interleaved(6),
        };
        let rows: Vec<usize> = (0..12).map(|row| entry.stored_row(row)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        assert_eq!((entry.stored_rows(&(7..9)), entry.row_bytes()), (6..12, 20));
    }
}
