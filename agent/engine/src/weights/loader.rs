//! From names to what a layer holds: the rank's part of a tensor, in the type and on the device that it computes with.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use lockstep_kernels::{Context, Matrix};

use super::Weights;
use crate::EngineError;
use crate::shard::Shard;

/// What is the same for all layers of one load.
pub struct LoadOptions<'a> {
    pub weights: &'a Weights,
    pub kernels: &'a Context,
    pub shard: &'a Shard,
    /// Of the matrices; vectors are f32.
    pub dtype: DType,
    pub device: &'a Device,
    /// Hears bytes read and bytes in all.
    pub progress: RefCell<&'a mut dyn FnMut(u64, u64)>,
    pub bytes_total: u64,
}

/// A place in the tree of tensor names.
pub struct Loader<'a> {
    options: &'a LoadOptions<'a>,
    prefix: String,
}

/// Some rows of a matrix `[of, in]` called `name.weight`, with those of its bias `name.bias`.
pub struct RowPart<'a> {
    pub name: &'a str,
    pub of: usize,
    pub rows: Range<usize>,
}

impl<'a> Loader<'a> {
    pub fn new(options: &'a LoadOptions<'a>) -> Self {
        Self { options, prefix: String::new() }
    }

    /// The place `name` below this one.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { options: self.options, prefix: format!("{}{name}.", self.prefix) }
    }

    pub fn shard(&self) -> &'a Shard {
        self.options.shard
    }

    /// A whole vector `[size]` in f32.
    pub fn vector(&self, name: &str, size: usize) -> Result<Tensor, EngineError> {
        self.rows(name, &[size], 0..size, DType::F32)
    }

    /// Some rows of a table `[rows, columns]`, not repacked.
    pub fn table(&self, name: &str, shape: [usize; 2], rows: Range<usize>) -> Result<Tensor, EngineError> {
        self.rows(name, &shape, rows, self.options.dtype)
    }

    /// The parts above one another as one matrix `[sum of rows, in]`.
    pub fn stacked(&self, parts: &[RowPart<'_>], in_features: usize) -> Result<Matrix, EngineError> {
        let tensor = self.stack(parts, "weight", &[in_features])?;
        self.repack(&self.place(tensor, self.options.dtype)?)
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
    pub fn columns(&self, name: &str, shape: [usize; 2], columns: Range<usize>) -> Result<Matrix, EngineError> {
        let tensor = self.options.weights.columns(&self.name(name), shape, columns)?;
        self.repack(&self.place(tensor, self.options.dtype)?)
    }

    /// A table in the order that the device multiplies in.
    pub fn repack(&self, table: &Tensor) -> Result<Matrix, EngineError> {
        Ok(Matrix::new(self.options.kernels, table)?)
    }

    fn rows(&self, name: &str, shape: &[usize], rows: Range<usize>, dtype: DType) -> Result<Tensor, EngineError> {
        let tensor = self.options.weights.rows(&self.name(name), shape, rows)?;
        self.place(tensor, dtype)
    }

    fn place(&self, tensor: Tensor, dtype: DType) -> Result<Tensor, EngineError> {
        let read = self.options.weights.bytes_read();
        (self.options.progress.borrow_mut())(read, self.options.bytes_total.max(read));
        Ok(tensor.to_device(self.options.device)?.to_dtype(dtype)?)
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
