//! The tasks of attention: tiles of queries, and the data that all tasks of a call share.

use super::pages::Pages;
use super::{AttentionParams, AttentionSeq};
use crate::shared_slice::SharedSlice;

/// Inputs and output of one call, shared by all tasks.
pub(super) struct AttentionCall<'a> {
    pub(super) pages: &'a Pages,
    pub(super) seqs: &'a [AttentionSeq<'a>],
    pub(super) params: &'a AttentionParams,
    /// Queries `[tokens, heads, head_dim]`.
    pub(super) q: &'a [f32],
    pub(super) heads: usize,
    /// Output of the same shape as `q`.
    pub(super) out: SharedSlice<'a, f32>,
}

impl AttentionCall<'_> {
    /// Returns all queries in tiles of at most `tile_size`.
    pub(super) fn query_tiles(&self, tile_size: usize) -> Vec<QueryTile> {
        let kv_heads = self.pages.layout.kv_heads;
        let mut heads_of = vec![Vec::new(); kv_heads];
        for (head, kv_head) in self.params.kv_head_of.iter().enumerate() {
            heads_of[*kv_head].push(head);
        }
        let mut tiles = Vec::new();
        for (index, seq) in self.seqs.iter().enumerate() {
            for (kv_head, heads) in heads_of.iter().enumerate() {
                let queries = (0..seq.rows).flat_map(|row| heads.iter().map(move |head| self.query(seq, row, *head)));
                let queries: Vec<Query> = queries.collect();
                let chunks = queries.chunks(tile_size);
                tiles.extend(chunks.map(|chunk| QueryTile { seq: index, kv_head, queries: chunk.to_vec() }));
            }
        }
        tiles
    }

    fn query(&self, seq: &AttentionSeq<'_>, row: usize, head: usize) -> Query {
        let position = seq.position + row;
        let window = self.params.window.unwrap_or(usize::MAX);
        let first = (position + 1).saturating_sub(window);
        let offset = ((seq.first_row + row) * self.heads + head) * self.pages.layout.head_dim;
        Query { first, last: position, offset }
    }
}

/// A task: a few queries of one KV head of one sequence.
pub(super) struct QueryTile {
    pub(super) seq: usize,
    pub(super) kv_head: usize,
    /// Queries in order of rows.
    pub(super) queries: Vec<Query>,
}

/// One (row, head). It sees the positions `first..=last`, and starts at `offset` in `q` and in the output.
#[derive(Clone, Copy)]
pub(super) struct Query {
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) offset: usize,
}
