//! Sequences, parameters and KV cache of causal attention, and its computation on the CPU.

mod cache;
mod cpu;
mod online_softmax;
mod pages;
mod query_tile;

pub use cache::KvCache;
pub(crate) use cpu::attend;
pub(crate) use pages::NewRows;

/// Rows of one sequence in a step, and the blocks of its keys and values.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSeq<'a> {
    /// First row of the sequence in `q`, `k` and `v`.
    pub first_row: usize,
    /// Number of its rows in this step.
    pub rows: usize,
    /// Position of its first row. Earlier positions are in the cache already.
    pub position: usize,
    /// Blocks of the sequence. Block `i` of the table holds positions `i * block_size..(i + 1) * block_size`.
    pub block_table: &'a [u32],
}

/// Parameters of a layer that are the same in all its calls.
#[derive(Debug, Clone)]
pub struct AttentionParams {
    /// KV head that each query head reads.
    pub kv_head_of: Vec<usize>,
    /// Factor on `q · k`, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Number of positions that a query sees at most, its own included.
    pub window: Option<usize>,
    /// Cap of the scores, which become `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}
