//! The place of one rank in its group.

/// Rank and size of a group, checked: `rank < world_size`, so `world_size >= 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RankGroup {
    rank: usize,
    world_size: usize,
}

impl RankGroup {
    /// Makes a group, or returns `None` unless `rank < world_size`.
    pub fn new(rank: usize, world_size: usize) -> Option<Self> {
        (rank < world_size).then_some(Self { rank, world_size })
    }

    /// Makes the group of a single rank.
    pub fn solo() -> Self {
        Self { rank: 0, world_size: 1 }
    }

    pub fn rank(self) -> usize {
        self.rank
    }

    pub fn world_size(self) -> usize {
        self.world_size
    }

    /// Returns this rank's part of `len` items. The parts are contiguous, in rank order, and as even as possible.
    pub fn part_of(self, len: usize) -> std::ops::Range<usize> {
        self.rank * len / self.world_size..(self.rank + 1) * len / self.world_size
    }
}
