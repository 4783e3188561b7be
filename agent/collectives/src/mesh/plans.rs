//! What each operation sends and receives, as pieces on each link.

use std::ops::Range;

use crate::dtype::Dtype;
use crate::mesh::exchange::{Piece, Plan};
use crate::mesh::header::{Kind, Operation};
use crate::rank_group::RankGroup;
use crate::sum;

/// One piece at most in each direction of each link, none depending on another: everything but the large all-reduce.
pub(crate) struct Whole<'a, To, From> {
    pub(crate) operation: Operation,
    /// Whether `send` goes to a peer.
    pub(crate) to: To,
    pub(crate) send: &'a [u8],
    /// Where in `recv` a peer's piece goes; `None`: it sends nothing.
    pub(crate) from: From,
    pub(crate) recv: &'a mut [u8],
}

impl<To, From> Plan for Whole<'_, To, From>
where
    To: Fn(usize) -> bool,
    From: Fn(usize) -> Option<Range<usize>>,
{
    fn sends(&self, peer: usize) -> Option<Operation> {
        (self.to)(peer).then(|| self.sized(self.send.len()))
    }

    fn receives(&self, peer: usize) -> Option<Operation> {
        (self.from)(peer).map(|range| self.sized(range.len()))
    }

    fn outgoing(&self, _peer: usize, index: usize) -> Piece<&[u8]> {
        if index == 0 { Piece::Bytes(self.send) } else { Piece::Done }
    }

    fn incoming(&mut self, peer: usize, index: usize) -> Piece<&mut [u8]> {
        match (self.from)(peer) {
            Some(range) if index == 0 => Piece::Bytes(&mut self.recv[range]),
            _ => Piece::Done,
        }
    }
}

impl<To, From> Whole<'_, To, From> {
    fn sized(&self, bytes: usize) -> Operation {
        Operation { bytes, ..self.operation }
    }
}

/// Segments in flight: while one is summed and gathered, the next are on their way.
const DEPTH: usize = 2;

/// The large all-reduce: each rank owns its part of every segment, sums what the others send of it (reduce-scatter) and
/// sends the sum back (all-gather), directly over the full mesh.
///
/// On each link the order of pieces is the first [`DEPTH`] scatters, gather 0, the next scatter, gather 1, …: a gather
/// depends only on scatters that precede it on every link, so no size and no speed of a link can make a circle of waits.
pub(crate) struct Segmented<'a> {
    shape: Segments,
    data: &'a mut [u8],
    scratch: &'a mut [u8],
    dtype: Dtype,
    /// Peers whose scatter piece has come, of the segments in flight.
    arrived: [usize; DEPTH],
    /// Segments whose own part holds its sum.
    summed: usize,
}

/// How a message is cut into segments, and segments into parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segments {
    pub(crate) group: RankGroup,
    /// Bytes of an element, of a segment, of the message.
    pub(crate) element: usize,
    pub(crate) segment: usize,
    pub(crate) total: usize,
}

enum Phase {
    Scatter(usize),
    Gather(usize),
}

impl Segments {
    fn count(self) -> usize {
        self.total.div_ceil(self.segment)
    }

    /// Bytes of the message that are rank `owner`'s part of segment `index`.
    fn part(self, index: usize, owner: usize) -> Range<usize> {
        let start = index * self.segment;
        let elements = (self.total - start).min(self.segment) / self.element;
        let ranks = self.group.world_size();
        let at = |rank: usize| start + rank * elements / ranks * self.element;
        at(owner)..at(owner + 1)
    }

    /// The `index`-th piece on every link; `None` after the last.
    fn phase(self, index: usize) -> Option<Phase> {
        let count = self.count();
        let ahead = DEPTH.min(count);
        if index < ahead {
            return Some(Phase::Scatter(index));
        }
        let (step, paired) = (index - ahead, 2 * (count - ahead));
        match step {
            _ if index >= 2 * count => None,
            _ if step >= paired => Some(Phase::Gather(step - paired / 2)),
            _ if step % 2 == 0 => Some(Phase::Gather(step / 2)),
            _ => Some(Phase::Scatter(ahead + step / 2)),
        }
    }

    /// Bytes of one peer's scatter piece at most, rounded so that every slot is aligned for every type.
    fn slot(self) -> usize {
        let elements = (self.segment / self.element).div_ceil(self.group.world_size());
        (elements * self.element).next_multiple_of(64)
    }

    /// Scratch that the pieces of the segments in flight need.
    pub(crate) fn scratch_bytes(self) -> usize {
        DEPTH * self.group.world_size() * self.slot()
    }

    /// Where rank `from`'s piece of segment `index` waits to be summed.
    fn slot_of(self, index: usize, from: usize) -> Range<usize> {
        let start = (index % DEPTH * self.group.world_size() + from) * self.slot();
        start..start + self.part(index, self.group.rank()).len()
    }
}

impl<'a> Segmented<'a> {
    /// `scratch` has [`Segments::scratch_bytes`] and is aligned for `dtype`, as is `data`.
    pub(crate) fn new(shape: Segments, dtype: Dtype, data: &'a mut [u8], scratch: &'a mut [u8]) -> Self {
        Self { shape, data, scratch, dtype, arrived: [0; DEPTH], summed: 0 }
    }

    /// Sums the segments whose pieces have all come.
    fn sum_arrived(&mut self) {
        let (shape, ranks) = (self.shape, self.shape.group.world_size());
        while self.arrived[self.summed % DEPTH] == ranks - 1 {
            let index = self.summed;
            let own = &mut self.data[shape.part(index, shape.group.rank())];
            let scratch = &*self.scratch;
            sum::in_rank_order(self.dtype, shape.group.rank(), ranks, own, |r| &scratch[shape.slot_of(index, r)]);
            self.arrived[index % DEPTH] = 0;
            self.summed += 1;
        }
    }

    fn operation(&self) -> Operation {
        Operation { kind: Kind::AllReduceSum, dtype: Some(self.dtype), bytes: self.shape.total }
    }
}

impl Plan for Segmented<'_> {
    fn sends(&self, _peer: usize) -> Option<Operation> {
        Some(self.operation())
    }

    fn receives(&self, _peer: usize) -> Option<Operation> {
        Some(self.operation())
    }

    fn outgoing(&self, peer: usize, index: usize) -> Piece<&[u8]> {
        let own = self.shape.group.rank();
        match self.shape.phase(index) {
            None => Piece::Done,
            Some(Phase::Scatter(segment)) => Piece::Bytes(&self.data[self.shape.part(segment, peer)]),
            Some(Phase::Gather(segment)) if segment < self.summed => {
                Piece::Bytes(&self.data[self.shape.part(segment, own)])
            }
            Some(Phase::Gather(_)) => Piece::Later,
        }
    }

    fn incoming(&mut self, peer: usize, index: usize) -> Piece<&mut [u8]> {
        match self.shape.phase(index) {
            None => Piece::Done,
            Some(Phase::Scatter(segment)) if segment >= self.summed + DEPTH => Piece::Later,
            Some(Phase::Scatter(segment)) => Piece::Bytes(&mut self.scratch[self.shape.slot_of(segment, peer)]),
            Some(Phase::Gather(segment)) => Piece::Bytes(&mut self.data[self.shape.part(segment, peer)]),
        }
    }

    fn received(&mut self, _peer: usize, index: usize) {
        if let Some(Phase::Scatter(segment)) = self.shape.phase(index) {
            self.arrived[segment % DEPTH] += 1;
            self.sum_arrived();
        }
    }
}
