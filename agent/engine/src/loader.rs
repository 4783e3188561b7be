//! From names to what a layer holds: the rank's part of a tensor, in the type and on the device that it computes with.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{DType, Tensor};
use lockstep_kernels::{BlockFormat, Context, Matrix};

use crate::EngineError;
use crate::entry::unrounded;
use crate::placement::Placement;
use crate::shard::Shard;
use crate::weights::Weights;

/// What is the same for all layers of one load.
pub struct LoadOptions<'a> {
    pub weights: &'a Weights,
    pub placement: &'a Placement,
    pub shard: &'a Shard,
    /// Of the matrices; vectors are f32.
    pub dtype: DType,
    /// Of the matrices that are stored in floating point.
    pub quantization: Option<BlockFormat>,
    /// Hears bytes read and bytes in all.
    pub progress: RefCell<&'a mut dyn FnMut(u64, u64)>,
    pub bytes_total: u64,
}

/// A place in the tree of tensor names, and where what is loaded from it is to lie.
pub struct Loader<'a> {
    options: &'a LoadOptions<'a>,
    context: &'a Context,
    /// Matrices are kept as they are stored.
    exact: bool,
    prefix: String,
}

/// Some rows of a matrix `[of, in]` called `name.weight`, with those of its bias `name.bias`.
pub struct RowPart<'a> {
    pub name: &'a str,
    pub of: usize,
    pub rows: Range<usize>,
}

/// Rows that are looked up by their index.
pub enum Table {
    Plain(Tensor),
    /// In the order of products: stored in blocks, or shared with a tied output projection.
    Matrix(Matrix),
}

impl<'a> Loader<'a> {
    pub fn new(options: &'a LoadOptions<'a>) -> Self {
        let context = options.placement.first();
        Self { options, context, exact: false, prefix: String::new() }
    }

    /// The same place, for what is computed with `context`.
    pub fn on(&self, context: &'a Context) -> Self {
        Self { context, prefix: self.prefix.clone(), ..*self }
    }

    pub fn placement(&self) -> &'a Placement {
        self.options.placement
    }

    /// The place `name` below this one.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{name}.", self.prefix), ..*self }
    }

    /// The same place, for what is neither quantized nor rounded: a router, where a small error changes who computes.
    pub fn exact(&self) -> Self {
        Self { exact: true, prefix: self.prefix.clone(), ..*self }
    }

    pub fn shard(&self) -> &'a Shard {
        self.options.shard
    }

    /// A whole vector `[size]` in f32.
    pub fn vector(&self, name: &str, size: usize) -> Result<Tensor, EngineError> {
        self.rows(name, &[size], 0..size, DType::F32)
    }

    /// Some rows of a table `[rows, columns]`, which is not quantized while loading. `tied`: the output projection is it
    /// too.
    pub fn table(&self, name: &str, shape: [usize; 2], rows: Range<usize>, tied: bool) -> Result<Table, EngineError> {
        let whole = 0..shape[1];
        if let Some(format) = self.options.weights.blocks_of(&self.name(name))? {
            return Ok(Table::Matrix(self.blocks(&self.name(name), format, shape, &rows, &whole)?));
        }
        let tensor = self.rows(name, &shape, rows, self.options.dtype)?;
        match self.format() {
            None if tied => Ok(Table::Matrix(self.packed(&tensor, whole)?)),
            _ => Ok(Table::Plain(tensor)),
        }
    }

    /// The parts above one another as one matrix `[sum of rows, in]`.
    pub fn stacked(&self, parts: &[RowPart<'_>], in_features: usize) -> Result<Matrix, EngineError> {
        let name = |part: &RowPart<'_>| self.name(&format!("{}.weight", part.name));
        let formats = parts.iter().map(|part| self.options.weights.blocks_of(&name(part)));
        let formats = formats.collect::<Result<Vec<_>, _>>()?;
        if formats.iter().all(Option::is_none) {
            let tensor = self.stack(parts, "weight", &[in_features])?;
            return self.packed(&self.matrix(tensor)?, 0..in_features);
        }
        let whole = 0..in_features;
        let matrices = parts.iter().zip(formats).map(|(part, format)| match format {
            Some(format) => self.blocks(&name(part), format, [part.of, in_features], &part.rows, &whole),
            None => {
                let tensor = self.options.weights.rows(&name(part), &[part.of, in_features], part.rows.clone())?;
                self.packed(&self.matrix(tensor)?, whole.clone())
            }
        });
        Ok(Matrix::stack(matrices.collect::<Result<_, _>>()?)?)
    }

    /// The biases of those parts behind one another, in f32.
    pub fn stacked_bias(&self, parts: &[RowPart<'_>]) -> Result<Tensor, EngineError> {
        self.place(self.stack(parts, "bias", &[])?, DType::F32)
    }

    fn stack(&self, parts: &[RowPart<'_>], kind: &str, row: &[usize]) -> Result<Tensor, EngineError> {
        let names: Vec<String> = parts.iter().map(|part| self.name(&format!("{}.{kind}", part.name))).collect();
        let parts: Vec<_> =
            names.iter().zip(parts).map(|(name, part)| (name.as_str(), part.of, part.rows.clone())).collect();
        self.options.weights.stacked(&parts, row)
    }

    /// Some columns of a matrix `[rows, columns]`.
    ///
    /// Where it is or becomes quantized, blocks begin where they do in the whole matrix, so that its numbers are the
    /// same however it is cut.
    pub fn columns(&self, name: &str, shape: [usize; 2], columns: Range<usize>) -> Result<Matrix, EngineError> {
        let name = self.name(name);
        if let Some(format) = self.options.weights.blocks_of(&name)? {
            return self.blocks(&name, format, shape, &(0..shape[0]), &columns);
        }
        let whole = match self.format() {
            Some(format) => whole_blocks(format, &columns, shape[1]),
            None => columns.clone(),
        };
        let tensor = self.options.weights.columns(&name, shape, whole.clone())?;
        let kept = columns.start - whole.start..columns.end - whole.start;
        self.packed(&self.matrix(tensor)?, kept)
    }

    /// The output projection that a table is at the same time.
    pub fn tied(&self, table: &Table) -> Result<Matrix, EngineError> {
        match table {
            Table::Plain(tensor) => self.packed(tensor, 0..tensor.dim(1)?),
            Table::Matrix(matrix) => Ok(matrix.clone()),
        }
    }

    /// What matrices are quantized to here that are stored in floating point.
    fn format(&self) -> Option<BlockFormat> {
        self.options.quantization.filter(|_| !self.exact)
    }

    /// Some columns of a matrix in the order that the device multiplies in, quantized where that is asked for.
    fn packed(&self, tensor: &Tensor, columns: Range<usize>) -> Result<Matrix, EngineError> {
        let matrix = match self.format() {
            Some(format) => Matrix::quantize(self.context, tensor, format, columns)?,
            None => Matrix::new(self.context, tensor)?,
        };
        Ok(matrix)
    }

    /// Some rows and columns of a matrix that is stored in blocks.
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
        self.report();
        let kept = columns.start - whole.start..columns.end - whole.start;
        Ok(Matrix::from_blocks(self.context, format, &bytes, rows.len(), kept)?)
    }

    fn rows(&self, name: &str, shape: &[usize], rows: Range<usize>, dtype: DType) -> Result<Tensor, EngineError> {
        let tensor = self.options.weights.rows(&self.name(name), shape, rows)?;
        self.place(tensor, dtype)
    }

    /// Numbers of a matrix that is yet to be brought to its device.
    fn matrix(&self, tensor: Tensor) -> Result<Tensor, EngineError> {
        self.report();
        let dtype = self.options.dtype;
        Ok(tensor.to_dtype(if self.exact { unrounded(tensor.dtype(), dtype) } else { dtype })?)
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

/// The columns of all blocks that hold some of `columns`, of `width` in all.
fn whole_blocks(format: BlockFormat, columns: &Range<usize>, width: usize) -> Range<usize> {
    let block = format.columns();
    columns.start / block * block..columns.end.next_multiple_of(block).min(width)
}
