//! Loading of tensors by name: the rank's part of each, in the type and on the device that a layer computes with.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{DType, Tensor};
use lockstep_kernels::{BlockFormat, Context, Error as KernelError, Matrix};

use crate::EngineError;
use crate::entry::{Stored, unrounded_dtype};
use crate::placement::Placement;
use crate::shard::Shard;
use crate::weights::Weights;

/// Options that all layers of one load share.
pub struct LoadOptions<'a> {
    pub weights: &'a Weights,
    pub placement: &'a Placement,
    pub shard: &'a Shard,
    /// Type of the matrices. Vectors are f32.
    pub dtype: DType,
    /// Format that matrices stored in floating point are quantized to.
    pub quantization: Option<BlockFormat>,
    /// Callback that gets the bytes read so far and the bytes in all.
    pub progress: RefCell<&'a mut dyn FnMut(u64, u64)>,
    pub bytes_total: u64,
}

/// A place in the tree of tensor names, and the device that its tensors are loaded to.
pub struct Loader<'a> {
    options: &'a LoadOptions<'a>,
    context: &'a Context,
    /// Matrices are neither quantized nor rounded.
    exact: bool,
    prefix: String,
}

/// Some rows of a matrix `[num_rows, in_features]` called `name.weight`, with those of its bias `name.bias`.
pub struct RowPart<'a> {
    pub name: &'a str,
    pub num_rows: usize,
    pub rows: Range<usize>,
}

/// A table whose rows are looked up by their index.
pub enum Table {
    Plain(Tensor),
    /// Numbers in the order of products: the table is stored in blocks, or a tied output projection shares it.
    Matrix(Matrix),
}

impl<'a> Loader<'a> {
    pub fn new(options: &'a LoadOptions<'a>) -> Self {
        let context = options.placement.first();
        Self { options, context, exact: false, prefix: String::new() }
    }

    /// Returns the same place, for tensors that `context` computes with.
    pub fn with_context(&self, context: &'a Context) -> Self {
        Self { context, prefix: self.prefix.clone(), ..*self }
    }

    pub fn placement(&self) -> &'a Placement {
        self.options.placement
    }

    /// Returns the place `name` below this one.
    pub fn child(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{name}.", self.prefix), ..*self }
    }

    /// Returns the same place, for tensors that are neither quantized nor rounded. Routers are: a small error in them
    /// changes which experts compute.
    pub fn as_exact(&self) -> Self {
        Self { exact: true, prefix: self.prefix.clone(), ..*self }
    }

    pub fn shard(&self) -> &'a Shard {
        self.options.shard
    }

    /// Loads a whole vector `[size]` in f32.
    pub fn vector(&self, name: &str, size: usize) -> Result<Tensor, EngineError> {
        self.rows(name, &[size], 0..size, DType::F32)
    }

    /// Loads some rows of a table `[rows, columns]`, which is not quantized while loading. `tied` says that the output
    /// projection is the same matrix.
    pub fn table(&self, name: &str, shape: [usize; 2], rows: Range<usize>, tied: bool) -> Result<Table, EngineError> {
        let whole = 0..shape[1];
        if let Some(matrix) = self.quantized(&self.name(name), shape, &rows, &whole)? {
            return Ok(Table::Matrix(matrix));
        }
        let tensor = self.rows(name, &shape, rows, self.options.dtype)?;
        match self.block_format(shape[1]) {
            None if tied => Ok(Table::Matrix(self.packed(&tensor, None, whole)?)),
            _ => Ok(Table::Plain(tensor)),
        }
    }

    /// Loads the parts above one another as one matrix `[sum of rows, in_features]`.
    pub fn stacked(&self, parts: &[RowPart<'_>], in_features: usize) -> Result<Matrix, EngineError> {
        let name = |part: &RowPart<'_>| self.name(&format!("{}.weight", part.name));
        let stored = parts.iter().map(|part| self.options.weights.stored(&name(part)));
        let stored = stored.collect::<Result<Vec<_>, _>>()?;
        if stored.iter().all(|stored| matches!(stored, Stored::Float(_) | Stored::Other(_))) {
            let tensor = self.stack(parts, "weight", &[in_features])?;
            return self.packed(&self.matrix(tensor)?, self.block_format(in_features), 0..in_features);
        }
        let whole = 0..in_features;
        let matrices = parts.iter().map(|part| {
            let (name, shape) = (name(part), [part.num_rows, in_features]);
            if let Some(matrix) = self.quantized(&name, shape, &part.rows, &whole)? {
                return Ok(matrix);
            }
            let tensor = self.options.weights.rows(&name, &shape, part.rows.clone())?;
            self.packed(&self.matrix(tensor)?, self.block_format(in_features), whole.clone())
        });
        Ok(Matrix::stack(matrices.collect::<Result<_, EngineError>>()?)?)
    }

    /// Loads the biases of those parts one after another, in f32.
    pub fn stacked_bias(&self, parts: &[RowPart<'_>]) -> Result<Tensor, EngineError> {
        self.place(self.stack(parts, "bias", &[])?, DType::F32)
    }

    fn stack(&self, parts: &[RowPart<'_>], kind: &str, row: &[usize]) -> Result<Tensor, EngineError> {
        let names: Vec<String> = parts.iter().map(|part| self.name(&format!("{}.{kind}", part.name))).collect();
        let parts: Vec<_> =
            names.iter().zip(parts).map(|(name, part)| (name.as_str(), part.num_rows, part.rows.clone())).collect();
        self.options.weights.stacked(&parts, row)
    }

    /// Loads some columns of a matrix `[rows, columns]`.
    ///
    /// Blocks of a quantized matrix begin at the same columns as in the whole matrix. So the numbers are the same
    /// however the matrix is cut.
    pub fn columns(&self, name: &str, shape: [usize; 2], columns: Range<usize>) -> Result<Matrix, EngineError> {
        let name = self.name(name);
        if let Some(matrix) = self.quantized(&name, shape, &(0..shape[0]), &columns)? {
            return Ok(matrix);
        }
        let format = self.block_format(shape[1]);
        let whole = match format {
            Some(format) => whole_blocks(format, &columns, shape[1]),
            None => columns.clone(),
        };
        let tensor = self.options.weights.columns(&name, shape, whole.clone())?;
        let kept = columns.start - whole.start..columns.end - whole.start;
        self.packed(&self.matrix(tensor)?, format, kept)
    }

    /// Returns the output projection that shares its numbers with `table`.
    pub fn tied(&self, table: &Table) -> Result<Matrix, EngineError> {
        match table {
            Table::Plain(tensor) => self.packed(tensor, self.block_format(tensor.dim(1)?), 0..tensor.dim(1)?),
            Table::Matrix(matrix) => Ok(matrix.clone()),
        }
    }

    /// Returns the format that matrices stored in floating point, whose rows have `width` numbers in all, are quantized to
    /// here.
    fn block_format(&self, width: usize) -> Option<BlockFormat> {
        self.options.quantization.filter(|_| !self.exact).map(|format| format.for_width(width))
    }

    /// Returns some columns of a matrix in the order that the device multiplies in, quantized to `format` if there is one.
    fn packed(
        &self,
        tensor: &Tensor,
        format: Option<BlockFormat>,
        columns: Range<usize>,
    ) -> Result<Matrix, EngineError> {
        let matrix = match format {
            Some(format) => Matrix::quantize(self.context, tensor, format, columns)?,
            None => Matrix::new(self.context, tensor)?,
        };
        Ok(matrix)
    }

    /// Loads some rows and columns of a matrix that is stored in a quantized format. Returns `None` for another.
    fn quantized(
        &self,
        name: &str,
        shape: [usize; 2],
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> Result<Option<Matrix>, EngineError> {
        match self.options.weights.stored(name)? {
            Stored::Blocks(format) => self.blocks(name, *format, shape, rows, columns).map(Some),
            Stored::Packed(_) => {
                let part = self.options.weights.codes(name, shape, rows, columns)?;
                self.report();
                let matrix = Matrix::from_codes(self.context, &part.weight());
                matrix.map(Some).map_err(|error| match error {
                    KernelError::Argument { reason, .. } => EngineError::Format { file: name.into(), reason },
                    other => other.into(),
                })
            }
            Stored::Float(_) | Stored::Other(_) => Ok(None),
        }
    }

    /// Loads some rows and columns of a matrix that is stored in blocks.
    fn blocks(
        &self,
        name: &str,
        format: BlockFormat,
        shape: [usize; 2],
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> Result<Matrix, EngineError> {
        let whole = whole_blocks(format, columns, shape[1]);
        let bytes = self.options.weights.blocks(name, shape, rows, &whole)?;
        let factor = self.options.weights.factor(name)?;
        self.report();
        let kept = columns.start - whole.start..columns.end - whole.start;
        let matrix = Matrix::from_blocks(self.context, format, &bytes, rows.len(), kept)?;
        Ok(match factor {
            Some(factor) => matrix.scaled(factor)?,
            None => matrix,
        })
    }

    fn rows(&self, name: &str, shape: &[usize], rows: Range<usize>, dtype: DType) -> Result<Tensor, EngineError> {
        let tensor = self.options.weights.rows(&self.name(name), shape, rows)?;
        self.place(tensor, dtype)
    }

    /// Converts a matrix to its type, still on the host.
    fn matrix(&self, tensor: Tensor) -> Result<Tensor, EngineError> {
        self.report();
        let dtype = self.options.dtype;
        Ok(tensor.to_dtype(if self.exact { unrounded_dtype(tensor.dtype(), dtype) } else { dtype })?)
    }

    fn place(&self, tensor: Tensor, dtype: DType) -> Result<Tensor, EngineError> {
        self.report();
        Ok(tensor.to_dtype(dtype)?.to_device(self.context.device())?)
    }

    fn report(&self) {
        let read = self.options.weights.bytes_read();
        (self.options.progress.borrow_mut())(read, self.options.bytes_total.max(read));
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// Returns the columns of all blocks that hold some of `columns`. `width` is the number of columns in all.
fn whole_blocks(format: BlockFormat, columns: &Range<usize>, width: usize) -> Range<usize> {
    let block = format.columns();
    columns.start / block * block..columns.end.next_multiple_of(block).min(width)
}
