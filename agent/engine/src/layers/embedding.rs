//! Both ends of the vocabulary: each rank holds some of its rows.

use candle_core::Tensor;
use lockstep_kernels::{embedding, embedding_from_matrix, soft_cap};

use super::{ColumnParallelLinear, Pass};
use crate::EngineError;
use crate::config::ModelConfig;
use crate::loader::{Loader, RowPart, Table};

/// Embedding of ids. A rank gives zeros for ids that it does not hold, and the sum over the ranks is the embedding.
pub struct VocabParallelEmbedding {
    table: Table,
    first_id: u32,
    /// Factor on every vector.
    scale: Option<f64>,
}

impl VocabParallelEmbedding {
    pub fn load(loader: &Loader<'_>, name: &str, config: &ModelConfig) -> Result<Self, EngineError> {
        let rows = loader.shard().vocab.clone();
        let first_id = u32::try_from(rows.start).unwrap_or(u32::MAX);
        let shape = [config.vocab_size, config.hidden_size];
        let scale = config.embedding_scale.map(f64::from);
        let table = loader.table(&format!("{name}.weight"), shape, rows, config.tie_word_embeddings)?;
        Ok(Self { table, first_id, scale })
    }

    /// Embeds the batch's ids: `[tokens, hidden]`.
    pub fn forward(&self, pass: &mut Pass<'_>) -> Result<Tensor, EngineError> {
        let (first_id, ids) = (self.first_id, &pass.batch.ids);
        let shard = match &self.table {
            Table::Plain(table) => embedding(pass.context, table, first_id, ids)?,
            Table::Matrix(table) => embedding_from_matrix(pass.context, table, first_id, ids)?,
        };
        let sum = pass.all_reduce_sum(shard)?;
        match self.scale {
            Some(scale) => Ok((sum * scale)?),
            None => Ok(sum),
        }
    }
}

/// Projection of vectors to this rank's shard of the logits.
pub struct LmHead {
    matrix: ColumnParallelLinear,
    soft_cap: Option<f32>,
}

impl LmHead {
    /// Loads the matrix `name`.
    pub fn load(loader: &Loader<'_>, name: &str, config: &ModelConfig) -> Result<Self, EngineError> {
        let shard = RowPart { name, num_rows: config.vocab_size, rows: loader.shard().vocab.clone() };
        let matrix = ColumnParallelLinear::load(loader, &[shard], config.hidden_size, false)?;
        Ok(Self { matrix, soft_cap: config.logit_soft_cap })
    }

    /// Takes the table of the embedding that the projection is tied to.
    pub fn tied(
        loader: &Loader<'_>,
        config: &ModelConfig,
        embedding: &VocabParallelEmbedding,
    ) -> Result<Self, EngineError> {
        let matrix = ColumnParallelLinear::from_matrix(loader.tied(&embedding.table)?);
        Ok(Self { matrix, soft_cap: config.logit_soft_cap })
    }

    /// Projects `[rows, hidden]` to this rank's `[rows, vocabulary shard]`.
    pub fn forward(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let logits = self.matrix.forward(pass, x)?;
        pass.tick();
        match self.soft_cap {
            Some(cap) => Ok(soft_cap(pass.context, &logits, cap)?),
            None => Ok(logits),
        }
    }
}
