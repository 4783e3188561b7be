//! One tensor in a weight file.

use std::ops::Range;
use std::sync::Arc;

use candle_core::DType;
use lockstep_kernels::BlockFormat;

use crate::EngineError;

/// Format that a tensor's numbers are stored in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    Float(DType),
    /// Rows of blocks. The columns of a row fill its last block.
    Blocks(BlockFormat),
    /// Several tensors of a quantized checkpoint, in a format of this name.
    Packed(&'static str),
    /// A format that is not read, by its name.
    Other(String),
}

/// Order that a tensor's rows are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// The model's own order.
    Plain,
    /// Heads of this many rows, whose two halves take turns. GGUF files of the `llama` architecture have queries and
    /// keys in this order, for a rotation of neighbours.
    Interleaved(usize),
}

/// Returns the type that keeps numbers of type `stored` unrounded, in a model whose other numbers are kept in `dtype`.
pub fn unrounded_dtype(stored: DType, dtype: DType) -> DType {
    if stored == dtype { dtype } else { DType::F32 }
}

/// A tensor's place in a file, its shape and its format.
#[derive(Debug)]
pub struct Entry {
    pub file: Arc<str>,
    pub shape: Vec<usize>,
    /// Offset of its first byte from the start of the file.
    pub offset: u64,
    /// Size of its data.
    pub bytes: u64,
    pub stored: Stored,
    pub order: RowOrder,
}

impl Entry {
    /// Returns the type of a tensor in floating point. `name` is for the error.
    pub fn dtype(&self, name: &str) -> Result<DType, EngineError> {
        match self.stored {
            Stored::Float(dtype) => Ok(dtype),
            _ => Err(self.refuse_dtype(name)),
        }
    }

    /// Returns true for a matrix, false for a vector.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() > 1
    }

    /// Returns the bytes that the tensor takes in memory. A floating-point matrix is kept in `dtype`, or in blocks if
    /// `quantized` asks for them. A vector is kept in f32, and blocks stay as they are stored.
    pub fn memory_bytes(&self, dtype: DType, quantized: Option<BlockFormat>) -> u64 {
        let elements = self.shape.iter().product::<usize>() as u64;
        let columns = self.shape.last().copied().unwrap_or(1).max(1) as u64;
        match (&self.stored, quantized) {
            (Stored::Float(_), Some(format)) if self.is_matrix() => {
                let format = format.for_width(usize::try_from(columns).unwrap_or(usize::MAX));
                elements / columns * columns.div_ceil(format.columns() as u64) * format.bytes() as u64
            }
            (Stored::Float(_), _) if self.is_matrix() => elements * dtype.size_in_bytes() as u64,
            (Stored::Float(_), _) => elements * DType::F32.size_in_bytes() as u64,
            _ => self.bytes,
        }
    }

    /// Returns the error for a type that cannot be used.
    pub fn refuse_dtype(&self, name: &str) -> EngineError {
        EngineError::Dtype { tensor: name.into(), file: self.file.to_string(), found: self.type_name() }
    }

    /// Returns the name of the type, as weight files spell it.
    pub fn type_name(&self) -> String {
        match &self.stored {
            Stored::Float(dtype) => dtype.as_str().to_uppercase(),
            Stored::Blocks(format) => format.name().to_uppercase(),
            Stored::Packed(format) => format.to_uppercase(),
            Stored::Other(found) => found.clone(),
        }
    }

    /// Returns the bytes of one row.
    pub fn row_bytes(&self) -> usize {
        let rows = self.shape.first().copied().unwrap_or(1).max(1);
        usize::try_from(self.bytes).unwrap_or(usize::MAX) / rows
    }

    /// Returns the stored rows that hold the rows `rows`.
    pub fn stored_rows(&self, rows: &Range<usize>) -> Range<usize> {
        match self.order {
            RowOrder::Plain => rows.clone(),
            RowOrder::Interleaved(head) => rows.start / head * head..rows.end.next_multiple_of(head),
        }
    }

    /// Returns the index under which row `row` is stored.
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
