//! The contract that every backend keeps.
//!
//! All ranks call the same operations in the same order with the same sizes. A call returns when this rank's part is
//! done. It fails with a typed error if a peer is gone, a deadline passes, or another thread aborts. After the first
//! failure every later call fails. A communicator belongs to one epoch and is never repaired: each epoch forms a new
//! one.

use crate::abort::Aborter;
use crate::error::CollectiveError;
use crate::rank_group::RankGroup;
use crate::slice::{Slice, SliceMut};

/// Collectives over one group in one epoch. One thread makes the calls. Any thread may use the [`Aborter`].
pub trait Communicator: Send {
    fn group(&self) -> RankGroup;

    /// Replaces `data` on every rank by the element-wise sum over the ranks, taken in rank order. bf16 and f16 are
    /// accumulated in f32 and rounded once. Integers wrap.
    fn all_reduce_sum(&mut self, data: SliceMut<'_>) -> Result<(), CollectiveError>;

    /// Gathers every rank's `mine` into `out`, in rank order. Rank r gives `counts[r]` elements: `counts` has one entry
    /// per rank, `counts[rank] == mine.len()`, and `out` holds their sum.
    fn all_gather(&mut self, mine: Slice<'_>, counts: &[usize], out: SliceMut<'_>) -> Result<(), CollectiveError>;

    /// Copies `data` of rank `root` to every rank.
    fn broadcast(&mut self, root: usize, data: SliceMut<'_>) -> Result<(), CollectiveError>;

    /// Sends `data` to rank `to`, which must call [`Communicator::recv`] with the same size.
    fn send(&mut self, to: usize, data: Slice<'_>) -> Result<(), CollectiveError>;

    /// Receives into `data` from rank `from`, which must call [`Communicator::send`] with the same size.
    fn recv(&mut self, from: usize, data: SliceMut<'_>) -> Result<(), CollectiveError>;

    /// Returns when every rank has called `barrier`.
    fn barrier(&mut self) -> Result<(), CollectiveError>;

    /// Returns a handle that ends any operation of this rank with [`CollectiveError::Aborted`].
    fn aborter(&self) -> Aborter;
}
