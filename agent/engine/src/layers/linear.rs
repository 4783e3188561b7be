//! Matrix products over several ranks (Shoeybi et al. 2019, <https://arxiv.org/abs/1909.08053>).

use std::ops::Range;

use candle_core::Tensor;
use lockstep_kernels::{Matrix, linear};

use super::Pass;
use crate::EngineError;
use crate::loader::{Loader, RowPart};

/// Linear layer whose outputs are divided among the ranks. Each rank computes its outputs from the whole input. Matrices
/// are `[out, in]`, so a rank's outputs are rows of the matrix. The name is the paper's: its matrices are `[in, out]`.
pub struct ColumnParallelLinear {
    matrix: Matrix,
    bias: Option<Tensor>,
}

impl ColumnParallelLinear {
    /// Loads this rank's rows of several matrices, as one matrix.
    pub fn load(
        loader: &Loader<'_>,
        parts: &[RowPart<'_>],
        in_features: usize,
        bias: bool,
    ) -> Result<Self, EngineError> {
        let bias = bias.then(|| loader.stacked_bias(parts)).transpose()?;
        Ok(Self { matrix: loader.stacked(parts, in_features)?, bias })
    }

    pub(super) fn from_matrix(matrix: Matrix) -> Self {
        Self { matrix, bias: None }
    }

    /// Maps `[tokens, in]` to this rank's `[tokens, out shard]`.
    pub fn forward(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        Ok(linear(pass.context, x, &self.matrix, self.bias.as_ref())?)
    }
}

/// Linear layer whose inputs are divided among the ranks. Each rank multiplies its shard of the input by its columns of
/// a matrix `[out, in]`. The sum over the ranks is the output.
pub struct RowParallelLinear {
    matrix: Matrix,
    /// Bias, on tensor rank 0 of each stage alone, so that the sum holds it once.
    bias: Option<Tensor>,
}

impl RowParallelLinear {
    /// Loads this rank's columns of `name.weight` `[shape]`.
    pub fn load(
        loader: &Loader<'_>,
        name: &str,
        shape: [usize; 2],
        columns: Range<usize>,
        bias: bool,
    ) -> Result<Self, EngineError> {
        let here = bias && loader.shard().group.rank() == 0;
        let bias = here.then(|| loader.vector(&format!("{name}.bias"), shape[0])).transpose()?;
        Ok(Self { matrix: loader.columns(&format!("{name}.weight"), shape, columns)?, bias })
    }

    /// Maps this rank's `[tokens, in shard]` to the whole `[tokens, out]`.
    pub fn forward(&self, pass: &mut Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let shard = self.forward_partial(pass, x)?;
        pass.all_reduce_sum(shard)
    }

    /// Computes this rank's summand of the output.
    pub fn forward_partial(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        Ok(linear(pass.context, x, &self.matrix, self.bias.as_ref())?)
    }
}
