//! A communicator over a full mesh of byte streams: the algorithms, whatever carries the bytes.
//!
//! Small all-reduces are one direct exchange and a local sum; large ones are reduce-scatter and all-gather in segments.
//! Both sum in rank order, so the result does not depend on which was taken. The first error closes every link and is
//! what each later call returns.

mod exchange;
mod header;
mod plans;
mod spin;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::abort::AbortSwitch;
use crate::abort::Aborter;
use crate::checks;
use crate::communicator::Communicator;
use crate::dtype::Dtype;
use crate::error::CollectiveError;
use crate::rank_group::RankGroup;
use crate::slice::{Slice, SliceMut};
use crate::sum;
use crate::transport::Transport;
use exchange::Exchange;
use header::{Kind, Operation};
use plans::{Segmented, Segments, Whole};

/// Where one algorithm hands over to the other, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// A message is exchanged whole and summed by every rank while what a rank then sends, size × (ranks - 1), is no
    /// more than this; else it is segmented.
    pub direct_up_to: usize,
    /// Bytes of a segment of a large message between two ranks; with more it shrinks as 2 / ranks, so that about as much
    /// is in flight.
    pub segment: usize,
    /// Bytes below which a segment's part for one rank does not shrink.
    pub least_part: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { direct_up_to: 128 << 10, segment: 512 << 10, least_part: 32 << 10 }
    }
}

/// Timeout, polling and progress counter of a communicator.
#[derive(Debug, Clone)]
pub(crate) struct MeshSettings {
    /// An operation fails when no byte moved for this long.
    pub(crate) op_timeout: Duration,
    /// Look for bytes for a short while before sleeping, as long as that pays.
    pub(crate) spin: bool,
    /// Moves whenever this rank's operations do.
    pub(crate) progress: Option<Arc<AtomicU64>>,
}

/// A group whose ranks are linked each to each.
pub struct Mesh {
    exchange: Exchange,
    group: RankGroup,
    tuning: Tuning,
    scratch: Vec<u64>,
    failed: Option<CollectiveError>,
    /// What errors call the ranks, where the group is part of a larger one.
    names: Option<Vec<usize>>,
}

impl Mesh {
    /// `transport` carries bytes between the ranks of `group`; `abort` ends every operation.
    pub(crate) fn new(
        transport: impl Transport + 'static,
        group: RankGroup,
        tuning: Tuning,
        settings: MeshSettings,
        abort: &AbortSwitch,
    ) -> Self {
        let exchange = Exchange::new(Box::new(transport), group, settings, abort);
        Self { exchange, group, tuning, scratch: Vec::new(), failed: None, names: None }
    }

    /// Errors call rank r `names[r]`: the group is part of a larger one.
    pub(crate) fn with_global_ranks(self, names: impl Iterator<Item = usize>) -> Self {
        Self { names: Some(names.collect()), ..self }
    }

    /// Runs `operation` unless one failed before, and remembers its failure.
    fn attempt(
        &mut self,
        operation: impl FnOnce(&mut Self) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = operation(self);
        if let Err(error) = &result {
            // A peer that another abort took down closes its links; the cause is the abort.
            let error = self.exchange.abort().check().err().unwrap_or_else(|| error.clone());
            let error = match &self.names {
                Some(names) => error.with_global_rank(names),
                None => error,
            };
            self.exchange.transport.close();
            self.failed = Some(error.clone());
            return Err(error);
        }
        result
    }

    /// The small all-reduce: everyone's whole message to everyone, then the sum.
    fn all_reduce_direct(&mut self, dtype: Dtype, data: &mut [u8]) -> Result<(), CollectiveError> {
        let (bytes, ranks, rank) = (data.len(), self.group.world_size(), self.group.rank());
        let slot = bytes.next_multiple_of(64);
        let scratch = room(&mut self.scratch, ranks * slot);
        let at = |peer: usize| peer * slot..peer * slot + bytes;
        let operation = Operation { kind: Kind::AllReduceSum, dtype: Some(dtype), bytes };
        let mut plan =
            Whole { operation, to: |_| true, send: data, from: |peer| Some(at(peer)), recv: &mut scratch[..] };
        self.exchange.run(&mut plan)?;
        sum::in_rank_order(dtype, rank, ranks, data, |r| &scratch[at(r)]);
        Ok(())
    }

    fn all_reduce_segmented(&mut self, dtype: Dtype, data: &mut [u8]) -> Result<(), CollectiveError> {
        let (element, ranks) = (dtype.size(), self.group.world_size());
        let least = self.tuning.least_part.max(element) * ranks;
        let segment = (2 * self.tuning.segment / ranks).max(least).next_multiple_of(element);
        // Two segments are too few to overlap much: one costs fewer steps.
        let segment = if data.len() <= 2 * segment { data.len() } else { segment };
        let shape = Segments { group: self.group, element, segment, total: data.len() };
        let scratch = room(&mut self.scratch, shape.scratch_bytes());
        self.exchange.run(&mut Segmented::new(shape, dtype, data, scratch))
    }

    /// Sends `data` where `to` says and receives nothing.
    fn give(
        &mut self,
        kind: Kind,
        dtype: Option<Dtype>,
        to: impl Fn(usize) -> bool,
        data: &[u8],
    ) -> Result<(), CollectiveError> {
        let operation = Operation { kind, dtype, bytes: data.len() };
        self.exchange.run(&mut Whole { operation, to, send: data, from: |_| None, recv: &mut [] })
    }

    /// Receives `data` from `from` and sends nothing.
    fn take(&mut self, kind: Kind, dtype: Option<Dtype>, from: usize, data: &mut [u8]) -> Result<(), CollectiveError> {
        let bytes = data.len();
        let operation = Operation { kind, dtype, bytes };
        let from = |peer| (peer == from).then_some(0..bytes);
        self.exchange.run(&mut Whole { operation, to: |_| false, send: &[], from, recv: data })
    }
}

/// The first `bytes` of a buffer that only grows.
fn room(scratch: &mut Vec<u64>, bytes: usize) -> &mut [u8] {
    let words = bytes.div_ceil(size_of::<u64>());
    if scratch.len() < words {
        scratch.resize(words, 0);
    }
    &mut bytemuck::cast_slice_mut(scratch)[..bytes]
}

impl Communicator for Mesh {
    fn group(&self) -> RankGroup {
        self.group
    }

    fn all_reduce_sum(&mut self, data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.attempt(|mesh| {
            let (dtype, data) = (data.dtype(), data.host_bytes()?);
            let sent = data.len().saturating_mul(mesh.group.world_size() - 1);
            if sent <= mesh.tuning.direct_up_to {
                mesh.all_reduce_direct(dtype, data)
            } else {
                mesh.all_reduce_segmented(dtype, data)
            }
        })
    }

    fn all_gather(&mut self, mine: Slice<'_>, counts: &[usize], out: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.attempt(|mesh| {
            checks::check_all_gather(mesh.group, &mine, counts, &out)?;
            let (dtype, mine, out) = (mine.dtype(), mine.host_bytes()?, out.host_bytes()?);
            let range = |rank: usize| -> Range<usize> {
                let start = counts[..rank].iter().sum::<usize>() * dtype.size();
                start..start + counts[rank] * dtype.size()
            };
            out[range(mesh.group.rank())].copy_from_slice(mine);
            let operation = Operation { kind: Kind::AllGather, dtype: Some(dtype), bytes: 0 };
            let from = |peer| Some(range(peer));
            mesh.exchange.run(&mut Whole { operation, to: |_| true, send: mine, from, recv: out })
        })
    }

    fn broadcast(&mut self, root: usize, data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.attempt(|mesh| {
            checks::check_root(mesh.group, root)?;
            let (dtype, data) = (data.dtype(), data.host_bytes()?);
            if root == mesh.group.rank() {
                mesh.give(Kind::Broadcast, Some(dtype), |_| true, data)
            } else {
                mesh.take(Kind::Broadcast, Some(dtype), root, data)
            }
        })
    }

    fn send(&mut self, to: usize, data: Slice<'_>) -> Result<(), CollectiveError> {
        self.attempt(|mesh| {
            checks::check_peer(mesh.group, to)?;
            mesh.give(Kind::Send, Some(data.dtype()), |peer| peer == to, data.host_bytes()?)
        })
    }

    fn recv(&mut self, from: usize, data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.attempt(|mesh| {
            checks::check_peer(mesh.group, from)?;
            mesh.take(Kind::Send, Some(data.dtype()), from, data.host_bytes()?)
        })
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.attempt(|mesh| {
            let operation = Operation { kind: Kind::Barrier, dtype: None, bytes: 0 };
            let from = |_| Some(0..0);
            mesh.exchange.run(&mut Whole { operation, to: |_| true, send: &[], from, recv: &mut [] })
        })
    }

    fn aborter(&self) -> Aborter {
        self.exchange.abort().aborter()
    }
}
