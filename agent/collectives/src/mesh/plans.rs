//! The plans of all operations: the pieces that each sends and receives on each link.

use std::ops::Range;

use crate::dtype::Dtype;
use crate::mesh::exchange::{Plan, PlanPiece};
use crate::mesh::header::{Operation, OperationKind};
use crate::rank_group::RankGroup;
use crate::sum;

/// Plan of every operation but the large all-reduce. Each direction of a link carries one piece at most, and no piece
/// depends on another.
pub(crate) struct WholePlan<'a, To, From> {
    pub(crate) operation: Operation,
    /// Function that returns true if `send` goes to a peer.
    pub(crate) to: To,
    pub(crate) send: &'a [u8],
    /// Function that returns the range of `recv` for a peer's piece, or `None` if the peer sends nothing.
    pub(crate) from: From,
    pub(crate) recv: &'a mut [u8],
}

impl<To, From> Plan for WholePlan<'_, To, From>
where
    To: Fn(usize) -> bool,
    From: Fn(usize) -> Option<Range<usize>>,
{
    fn sends(&self, peer: usize) -> Option<Operation> {
        (self.to)(peer).then(|| self.operation_of(self.send.len()))
    }

    fn receives(&self, peer: usize) -> Option<Operation> {
        (self.from)(peer).map(|range| self.operation_of(range.len()))
    }

    fn outgoing(&self, _peer: usize, index: usize) -> PlanPiece<&[u8]> {
        if index == 0 { PlanPiece::Bytes(self.send) } else { PlanPiece::Done }
    }

    fn incoming(&mut self, peer: usize, index: usize) -> PlanPiece<&mut [u8]> {
        match (self.from)(peer) {
            Some(range) if index == 0 => PlanPiece::Bytes(&mut self.recv[range]),
            _ => PlanPiece::Done,
        }
    }
}

impl<To, From> WholePlan<'_, To, From> {
    fn operation_of(&self, bytes: usize) -> Operation {
        Operation { bytes, ..self.operation }
    }
}

/// Number of segments in flight. While one is summed and gathered, the next one is scattered.
const DEPTH: usize = 2;

/// Plan of the large all-reduce. Each rank owns one part of every segment. It sums the peers' copies of that part
/// (reduce-scatter), and sends the sum to all peers (all-gather), directly over the full mesh.
///
/// The order of pieces on each link is: the first [`DEPTH`] scatters, gather 0, the next scatter, gather 1, and so on.
/// A gather depends only on scatters that precede it on every link. So ranks cannot wait for each other in a circle.
pub(crate) struct SegmentedPlan<'a> {
    layout: SegmentLayout,
    data: &'a mut [u8],
    scratch: &'a mut [u8],
    dtype: Dtype,
    /// Number of peers whose scatter piece has arrived, for each segment in flight.
    arrived: [usize; DEPTH],
    /// Number of segments whose own part is summed.
    num_summed: usize,
}

/// Division of a message into segments, and of each segment into one part per rank.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentLayout {
    pub(crate) group: RankGroup,
    /// Bytes of one element.
    pub(crate) element: usize,
    /// Bytes of one segment. The last segment may be shorter.
    pub(crate) segment: usize,
    /// Bytes of the message.
    pub(crate) total: usize,
}

/// Role of one piece, with the index of its segment.
enum Phase {
    Scatter(usize),
    Gather(usize),
}

impl SegmentLayout {
    fn num_segments(self) -> usize {
        self.total.div_ceil(self.segment)
    }

    /// Returns the range of the message that is rank `owner`'s part of segment `index`.
    fn part_range(self, index: usize, owner: usize) -> Range<usize> {
        let start = index * self.segment;
        let elements = (self.total - start).min(self.segment) / self.element;
        let ranks = self.group.world_size();
        let part_start = |rank: usize| start + rank * elements / ranks * self.element;
        part_start(owner)..part_start(owner + 1)
    }

    /// Returns the role of piece `index` on every link, or `None` after the last piece.
    fn phase_of(self, index: usize) -> Option<Phase> {
        let count = self.num_segments();
        let ahead = DEPTH.min(count);
        if index < ahead {
            return Some(Phase::Scatter(index));
        }
        // After the first scatters, a gather and a scatter take turns until all segments are scattered.
        let (step, alternating) = (index - ahead, 2 * (count - ahead));
        match step {
            _ if index >= 2 * count => None,
            _ if step >= alternating => Some(Phase::Gather(step - alternating / 2)),
            _ if step % 2 == 0 => Some(Phase::Gather(step / 2)),
            _ => Some(Phase::Scatter(ahead + step / 2)),
        }
    }

    /// Returns the most bytes of one scatter piece, rounded so that every slot is aligned for every type.
    fn slot_bytes(self) -> usize {
        let elements = (self.segment / self.element).div_ceil(self.group.world_size());
        (elements * self.element).next_multiple_of(64)
    }

    /// Returns the bytes of scratch that the segments in flight need.
    pub(crate) fn scratch_bytes(self) -> usize {
        DEPTH * self.group.world_size() * self.slot_bytes()
    }

    /// Returns the range of the scratch for rank `from`'s piece of segment `index`.
    fn slot_range(self, index: usize, from: usize) -> Range<usize> {
        let start = (index % DEPTH * self.group.world_size() + from) * self.slot_bytes();
        start..start + self.part_range(index, self.group.rank()).len()
    }
}

impl<'a> SegmentedPlan<'a> {
    /// Makes a plan. `scratch` has [`SegmentLayout::scratch_bytes`] bytes, and both slices are aligned for `dtype`.
    pub(crate) fn new(layout: SegmentLayout, dtype: Dtype, data: &'a mut [u8], scratch: &'a mut [u8]) -> Self {
        Self { layout, data, scratch, dtype, arrived: [0; DEPTH], num_summed: 0 }
    }

    /// Sums the segments whose pieces have all arrived.
    fn sum_arrived(&mut self) {
        let (layout, ranks) = (self.layout, self.layout.group.world_size());
        while self.arrived[self.num_summed % DEPTH] == ranks - 1 {
            let index = self.num_summed;
            let own = &mut self.data[layout.part_range(index, layout.group.rank())];
            let scratch = &*self.scratch;
            sum::sum_in_rank_order(self.dtype, layout.group.rank(), ranks, own, |r| {
                &scratch[layout.slot_range(index, r)]
            });
            self.arrived[index % DEPTH] = 0;
            self.num_summed += 1;
        }
    }

    fn operation(&self) -> Operation {
        Operation { kind: OperationKind::AllReduceSum, dtype: Some(self.dtype), bytes: self.layout.total }
    }
}

impl Plan for SegmentedPlan<'_> {
    fn sends(&self, _peer: usize) -> Option<Operation> {
        Some(self.operation())
    }

    fn receives(&self, _peer: usize) -> Option<Operation> {
        Some(self.operation())
    }

    fn outgoing(&self, peer: usize, index: usize) -> PlanPiece<&[u8]> {
        let own = self.layout.group.rank();
        match self.layout.phase_of(index) {
            None => PlanPiece::Done,
            Some(Phase::Scatter(segment)) => PlanPiece::Bytes(&self.data[self.layout.part_range(segment, peer)]),
            Some(Phase::Gather(segment)) if segment < self.num_summed => {
                PlanPiece::Bytes(&self.data[self.layout.part_range(segment, own)])
            }
            Some(Phase::Gather(_)) => PlanPiece::Later,
        }
    }

    fn incoming(&mut self, peer: usize, index: usize) -> PlanPiece<&mut [u8]> {
        match self.layout.phase_of(index) {
            None => PlanPiece::Done,
            Some(Phase::Scatter(segment)) if segment >= self.num_summed + DEPTH => PlanPiece::Later,
            Some(Phase::Scatter(segment)) => PlanPiece::Bytes(&mut self.scratch[self.layout.slot_range(segment, peer)]),
            Some(Phase::Gather(segment)) => PlanPiece::Bytes(&mut self.data[self.layout.part_range(segment, peer)]),
        }
    }

    fn received(&mut self, _peer: usize, index: usize) {
        if let Some(Phase::Scatter(segment)) = self.layout.phase_of(index) {
            self.arrived[segment % DEPTH] += 1;
            self.sum_arrived();
        }
    }
}
