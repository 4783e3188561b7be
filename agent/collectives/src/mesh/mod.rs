//! A communicator over a full mesh of byte streams. Its algorithms do not depend on the transport.
//!
//! A small all-reduce is one direct exchange and a local sum. A large all-reduce is a reduce-scatter and an all-gather
//! in segments. Both sum in rank order, so the result does not depend on the choice. The first error closes every link,
//! and each later call returns that error.

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
use header::{Operation, OperationKind};
use plans::{SegmentLayout, SegmentedPlan, WholePlan};

/// Sizes at which the all-reduce changes its algorithm, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Most bytes that a rank may send, size × (ranks - 1), for a direct exchange. A larger all-reduce is segmented.
    pub direct_up_to: usize,
    /// Bytes of a segment in a group of two ranks. In larger groups a segment has 2 / ranks of this size, so that about
    /// as many bytes are in flight.
    pub segment: usize,
    /// Fewest bytes of one rank's part of a segment.
    pub min_part: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { direct_up_to: 128 << 10, segment: 512 << 10, min_part: 32 << 10 }
    }
}

/// Timeout, polling and progress counter of a communicator.
#[derive(Debug, Clone)]
pub(crate) struct MeshSettings {
    /// Time after which an operation fails if no byte has moved.
    pub(crate) op_timeout: Duration,
    /// Set if the rank polls for bytes for a short while before it sleeps, as long as that pays.
    pub(crate) spin: bool,
    /// Counter that grows whenever this rank's operations move bytes.
    pub(crate) progress: Option<Arc<AtomicU64>>,
}

/// Communicator of a group with a link between every two ranks.
pub struct Mesh {
    exchange: Exchange,
    group: RankGroup,
    tuning: Tuning,
    /// Buffer for the operands of peers. `u64` aligns it for every element type.
    scratch: Vec<u64>,
    /// First error, which every later call returns.
    failed: Option<CollectiveError>,
    /// Ranks of the larger group, if this group is part of one. Errors name these.
    global_ranks: Option<Vec<usize>>,
}

impl Mesh {
    /// Makes a communicator whose bytes `transport` carries. `abort` ends every operation.
    pub(crate) fn new(
        transport: impl Transport + 'static,
        group: RankGroup,
        tuning: Tuning,
        settings: MeshSettings,
        abort: &AbortSwitch,
    ) -> Self {
        let exchange = Exchange::new(Box::new(transport), group, settings, abort);
        Self { exchange, group, tuning, scratch: Vec::new(), failed: None, global_ranks: None }
    }

    /// Makes errors name `global_ranks[r]` for rank r, because the group is part of a larger one.
    pub(crate) fn with_global_ranks(self, global_ranks: impl Iterator<Item = usize>) -> Self {
        Self { global_ranks: Some(global_ranks.collect()), ..self }
    }

    /// Runs `operation` unless an earlier one has failed, and keeps its failure.
    fn run_operation(
        &mut self,
        operation: impl FnOnce(&mut Self) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = operation(self);
        if let Err(error) = &result {
            // An abort often ends the peers too, and their closed links are only a consequence. The abort is the cause
            // to report.
            let error = self.exchange.abort().check().err().unwrap_or_else(|| error.clone());
            let error = match &self.global_ranks {
                Some(global_ranks) => error.with_global_rank(global_ranks),
                None => error,
            };
            self.exchange.transport.close();
            self.failed = Some(error.clone());
            return Err(error);
        }
        result
    }

    /// Runs a small all-reduce: every rank sends its whole message to every peer, and each rank sums.
    fn all_reduce_direct(&mut self, dtype: Dtype, data: &mut [u8]) -> Result<(), CollectiveError> {
        let (bytes, ranks, rank) = (data.len(), self.group.world_size(), self.group.rank());
        let slot = bytes.next_multiple_of(64);
        let scratch = grow_scratch(&mut self.scratch, ranks * slot);
        let slot_range = |peer: usize| peer * slot..peer * slot + bytes;
        let operation = Operation { kind: OperationKind::AllReduceSum, dtype: Some(dtype), bytes };
        let mut plan = WholePlan {
            operation,
            to: |_| true,
            send: data,
            from: |peer| Some(slot_range(peer)),
            recv: &mut scratch[..],
        };
        self.exchange.run_plan(&mut plan)?;
        sum::sum_in_rank_order(dtype, rank, ranks, data, |r| &scratch[slot_range(r)]);
        Ok(())
    }

    /// Runs a large all-reduce: reduce-scatter and all-gather in segments.
    fn all_reduce_segmented(&mut self, dtype: Dtype, data: &mut [u8]) -> Result<(), CollectiveError> {
        let (element, ranks) = (dtype.size(), self.group.world_size());
        let min_segment = self.tuning.min_part.max(element) * ranks;
        let segment = (2 * self.tuning.segment / ranks).max(min_segment).next_multiple_of(element);
        // Two segments would overlap little, and one segment costs fewer steps.
        let segment = if data.len() <= 2 * segment { data.len() } else { segment };
        let layout = SegmentLayout { group: self.group, element, segment, total: data.len() };
        let scratch = grow_scratch(&mut self.scratch, layout.scratch_bytes());
        self.exchange.run_plan(&mut SegmentedPlan::new(layout, dtype, data, scratch))
    }

    /// Sends `data` to each peer for which `to` returns true, and receives nothing.
    fn send_only(
        &mut self,
        kind: OperationKind,
        dtype: Option<Dtype>,
        to: impl Fn(usize) -> bool,
        data: &[u8],
    ) -> Result<(), CollectiveError> {
        let operation = Operation { kind, dtype, bytes: data.len() };
        self.exchange.run_plan(&mut WholePlan { operation, to, send: data, from: |_| None, recv: &mut [] })
    }

    /// Receives `data` from `from`, and sends nothing.
    fn receive_only(
        &mut self,
        kind: OperationKind,
        dtype: Option<Dtype>,
        from: usize,
        data: &mut [u8],
    ) -> Result<(), CollectiveError> {
        let bytes = data.len();
        let operation = Operation { kind, dtype, bytes };
        let from = |peer| (peer == from).then_some(0..bytes);
        self.exchange.run_plan(&mut WholePlan { operation, to: |_| false, send: &[], from, recv: data })
    }
}

/// Returns the first `bytes` of a buffer that only grows.
fn grow_scratch(scratch: &mut Vec<u64>, bytes: usize) -> &mut [u8] {
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
        self.run_operation(|mesh| {
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
        self.run_operation(|mesh| {
            checks::check_all_gather(mesh.group, &mine, counts, &out)?;
            let (dtype, mine, out) = (mine.dtype(), mine.host_bytes()?, out.host_bytes()?);
            let range = |rank: usize| -> Range<usize> {
                let start = counts[..rank].iter().sum::<usize>() * dtype.size();
                start..start + counts[rank] * dtype.size()
            };
            out[range(mesh.group.rank())].copy_from_slice(mine);
            let operation = Operation { kind: OperationKind::AllGather, dtype: Some(dtype), bytes: 0 };
            let from = |peer| Some(range(peer));
            mesh.exchange.run_plan(&mut WholePlan { operation, to: |_| true, send: mine, from, recv: out })
        })
    }

    fn broadcast(&mut self, root: usize, data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.run_operation(|mesh| {
            checks::check_root(mesh.group, root)?;
            let (dtype, data) = (data.dtype(), data.host_bytes()?);
            if root == mesh.group.rank() {
                mesh.send_only(OperationKind::Broadcast, Some(dtype), |_| true, data)
            } else {
                mesh.receive_only(OperationKind::Broadcast, Some(dtype), root, data)
            }
        })
    }

    fn send(&mut self, to: usize, data: Slice<'_>) -> Result<(), CollectiveError> {
        self.run_operation(|mesh| {
            checks::check_peer(mesh.group, to)?;
            mesh.send_only(OperationKind::Send, Some(data.dtype()), |peer| peer == to, data.host_bytes()?)
        })
    }

    fn recv(&mut self, from: usize, data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.run_operation(|mesh| {
            checks::check_peer(mesh.group, from)?;
            mesh.receive_only(OperationKind::Send, Some(data.dtype()), from, data.host_bytes()?)
        })
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.run_operation(|mesh| {
            let operation = Operation { kind: OperationKind::Barrier, dtype: None, bytes: 0 };
            let from = |_| Some(0..0);
            mesh.exchange.run_plan(&mut WholePlan { operation, to: |_| true, send: &[], from, recv: &mut [] })
        })
    }

    fn aborter(&self) -> Aborter {
        self.exchange.abort().aborter()
    }
}
