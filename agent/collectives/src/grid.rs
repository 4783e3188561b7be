//! The ranks of a group in pipeline stages. Each stage is a tensor-parallel group.

use crate::communicator::Communicator;
use crate::rank_group::RankGroup;

/// Place of one rank in a grid, checked: rank = stage × tensor size + tensor rank.
///
/// A row of the grid is one stage, whose ranks sum with each other. A column holds the ranks of equal tensor rank,
/// which send activations from stage to stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    tensor: RankGroup,
    pipeline: RankGroup,
}

impl Grid {
    /// Makes a grid, or returns `None` unless `rank < world_size` and `stages`, at least 1, divides `world_size`.
    pub fn new(rank: usize, world_size: usize, stages: usize) -> Option<Self> {
        let size = world_size.checked_div(stages).filter(|size| size * stages == world_size && *size > 0)?;
        Some(Self { tensor: RankGroup::new(rank % size, size)?, pipeline: RankGroup::new(rank / size, stages)? })
    }

    /// Returns the rank's place in the tensor-parallel group of its stage.
    pub fn tensor(self) -> RankGroup {
        self.tensor
    }

    /// Returns the rank's place in its column: `rank()` is the stage, `world_size()` the number of stages.
    pub fn pipeline(self) -> RankGroup {
        self.pipeline
    }

    pub fn rank(self) -> usize {
        self.pipeline.rank() * self.tensor.world_size() + self.tensor.rank()
    }

    pub fn world_size(self) -> usize {
        self.pipeline.world_size() * self.tensor.world_size()
    }

    pub fn is_first_stage(self) -> bool {
        self.pipeline.rank() == 0
    }

    pub fn is_last_stage(self) -> bool {
        self.pipeline.rank() + 1 == self.pipeline.world_size()
    }

    /// Returns the ranks of this stage, by tensor rank.
    pub fn row(self) -> impl Iterator<Item = usize> {
        let size = self.tensor.world_size();
        let first = self.pipeline.rank() * size;
        first..first + size
    }

    /// Returns the ranks of this column, by stage.
    pub fn column(self) -> impl Iterator<Item = usize> {
        (self.tensor.rank()..self.world_size()).step_by(self.tensor.world_size())
    }

    /// Returns this stage's part of `len` layers. The parts are contiguous, in the order of the stages, and as even as
    /// possible. If `len` is not a multiple of the stages, the last stage has one layer less than the first, because
    /// the last stage also has the output projection.
    pub fn layers_of(self, len: usize) -> std::ops::Range<usize> {
        let (stage, stages) = (self.pipeline.rank(), self.pipeline.world_size());
        (stage * len).div_ceil(stages)..((stage + 1) * len).div_ceil(stages)
    }
}

/// Makes a grid of one stage.
impl From<RankGroup> for Grid {
    fn from(tensor: RankGroup) -> Self {
        Self { tensor, pipeline: RankGroup::solo() }
    }
}

/// Communicators of one rank of a grid, in one epoch.
pub struct Communicators {
    /// Communicator of the rank's row: the ranks of its stage.
    pub tensor: Box<dyn Communicator>,
    /// Communicator of the rank's column, which has one rank per stage. `None` if there is only one stage.
    pub pipeline: Option<Box<dyn Communicator>>,
}

/// Makes the communicators of a grid of one stage.
impl<C: Communicator + 'static> From<C> for Communicators {
    fn from(tensor: C) -> Self {
        Self { tensor: Box::new(tensor), pipeline: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_numbered_stage_by_stage() {
        let places: Vec<_> = (0..6)
            .map(|rank| Grid::new(rank, 6, 3).expect("a place"))
            .map(|grid| (grid.rank(), grid.pipeline().rank(), grid.tensor().rank()))
            .collect();
        assert_eq!(places, [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1), (4, 2, 0), (5, 2, 1)]);
        let grid = Grid::new(3, 6, 3).expect("a place");
        assert_eq!((grid.row().collect::<Vec<_>>(), grid.column().collect::<Vec<_>>()), (vec![2, 3], vec![1, 3, 5]));
        assert!(!grid.is_first_stage() && !grid.is_last_stage() && grid.world_size() == 6);
        let one_stage = Grid::from(RankGroup::new(1, 2).expect("a place"));
        assert_eq!(Some(one_stage), Grid::new(1, 2, 1));
        for (rank, world_size, stages) in [(6, 6, 3), (0, 5, 2), (0, 2, 0), (0, 2, 3), (0, 0, 1)] {
            assert_eq!(Grid::new(rank, world_size, stages), None, "{rank} of {world_size} in {stages}");
        }
    }

    #[test]
    fn layers_are_spread_evenly_and_the_last_stage_has_the_fewest() {
        let layers = |len, stages| -> Vec<usize> {
            let grid = |stage| Grid::new(stage, stages, stages).expect("a place");
            let ranges: Vec<_> = (0..stages).map(|stage| grid(stage).layers_of(len)).collect();
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!((ranges[0].start, ranges[stages - 1].end), (0, len));
            ranges.iter().map(std::iter::ExactSizeIterator::len).collect()
        };
        assert_eq!(layers(4, 1), [4]);
        assert_eq!(layers(5, 2), [3, 2]);
        assert_eq!(layers(3, 3), [1, 1, 1]);
        assert_eq!(layers(7, 3), [3, 2, 2]);
        assert_eq!(layers(8, 3), [3, 3, 2]);
    }
}
