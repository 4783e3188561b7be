//! The contract that every backend keeps.
//!
//! All ranks call the same operations in the same order with the same sizes. A call returns when this rank's part is
//! done; it fails with a typed error when a peer is gone, a deadline passes or someone aborts, and after the first
//! failure every further call fails. A communicator belongs to one epoch and is never mended: a new epoch makes a new
//! one.

use std::sync::Arc;

use half::{bf16, f16};

/// A checked place in a group: `rank < world_size`, `world_size >= 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Group {
    rank: usize,
    world_size: usize,
}

impl Group {
    /// `None` unless `rank < world_size`.
    pub fn new(rank: usize, world_size: usize) -> Option<Self> {
        (rank < world_size).then_some(Self { rank, world_size })
    }

    /// The only rank of a group of one.
    pub fn solo() -> Self {
        Self { rank: 0, world_size: 1 }
    }

    pub fn rank(self) -> usize {
        self.rank
    }

    pub fn world_size(self) -> usize {
        self.world_size
    }

    /// The part of `len` things that belongs to this rank when they are split as evenly as they can be, in rank order.
    pub fn part_of(self, len: usize) -> std::ops::Range<usize> {
        self.rank * len / self.world_size..(self.rank + 1) * len / self.world_size
    }
}

/// Typed elements to read, in host memory.
#[derive(Debug, Clone, Copy)]
pub enum Slice<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    I32(&'a [i32]),
    U32(&'a [u32]),
    /// In the memory of a CUDA device: for the backend `nccl` alone.
    #[cfg(feature = "nccl")]
    Device(crate::nccl::DeviceSlice<'a>),
}

/// Typed elements to read and write, in host memory.
#[derive(Debug)]
pub enum SliceMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
    F16(&'a mut [f16]),
    I32(&'a mut [i32]),
    U32(&'a mut [u32]),
    /// In the memory of a CUDA device: for the backend `nccl` alone.
    #[cfg(feature = "nccl")]
    Device(crate::nccl::DeviceSliceMut<'a>),
}

/// Collectives over one group in one epoch. One thread calls; [`Aborter`] may be used from any.
pub trait Communicator: Send {
    fn group(&self) -> Group;

    /// Name of the backend, as status shows it: `ring`, `nccl`, `solo`.
    fn backend(&self) -> &'static str;

    /// Replaces `data` on every rank by the sum over the ranks, element by element, taken in rank order; bf16 and f16
    /// accumulate in f32 and round once. Integers wrap.
    fn all_reduce_sum(&mut self, data: SliceMut<'_>) -> Result<(), CollectiveError>;

    /// Gathers every rank's `mine` into `out`, in rank order. `counts[r]` elements come from rank r: `counts` has one
    /// entry a rank, `counts[rank] == mine.len()`, and `out` holds their sum.
    fn all_gather(&mut self, mine: Slice<'_>, counts: &[usize], out: SliceMut<'_>) -> Result<(), CollectiveError>;

    /// Copies `data` of rank `root` to every rank.
    fn broadcast(&mut self, root: usize, data: SliceMut<'_>) -> Result<(), CollectiveError>;

    /// Sends `data` to rank `to`, which must call [`Communicator::recv`] with the same size.
    fn send(&mut self, to: usize, data: Slice<'_>) -> Result<(), CollectiveError>;

    /// Receives from rank `from` what it sends.
    fn recv(&mut self, from: usize, data: SliceMut<'_>) -> Result<(), CollectiveError>;

    /// Returns when every rank has called it.
    fn barrier(&mut self) -> Result<(), CollectiveError>;

    /// A handle that wakes this rank out of any operation with [`CollectiveError::Aborted`].
    fn aborter(&self) -> Aborter;
}

/// Wakes a rank that is blocked in a collective; cheap to clone, usable from any thread, harmless when used twice.
#[derive(Clone)]
pub struct Aborter(Arc<dyn Fn(&str) + Send + Sync>);

impl Aborter {
    pub fn new(abort: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(abort))
    }

    /// Every blocked and every further call fails with [`CollectiveError::Aborted`] and this reason; the first counts.
    pub fn abort(&self, reason: &str) {
        (self.0)(reason);
    }
}

/// Why a collective, or the forming of a communicator, failed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CollectiveError {
    /// Someone called [`Aborter::abort`].
    #[error("aborted: {0}")]
    Aborted(String),
    /// The link to a peer broke.
    #[error("link to rank {rank} closed: {reason}")]
    PeerLost { rank: usize, reason: String },
    /// Nothing moved for the communicator's deadline.
    #[error("rank {rank} sent nothing for {millis} ms")]
    Timeout { rank: usize, millis: u64 },
    /// A peer said something that does not belong: another version, cluster, epoch, rank or size.
    #[error("rank {rank} is not of this group: {reason}")]
    Mismatch { rank: usize, reason: String },
    /// The caller's arguments contradict each other or the group.
    #[error("{0}")]
    Usage(String),
    /// The backend cannot be had here.
    #[error("{backend} is not available: {reason}")]
    Unavailable { backend: &'static str, reason: String },
}

impl CollectiveError {
    /// The same of rank `names[rank]`.
    pub(crate) fn renamed(mut self, names: &[usize]) -> Self {
        if let Self::PeerLost { rank, .. } | Self::Timeout { rank, .. } | Self::Mismatch { rank, .. } = &mut self
            && let Some(name) = names.get(*rank)
        {
            *rank = *name;
        }
        self
    }
}
