//! The group of one rank. A sum over one rank is its only operand.

use crate::abort::AbortSwitch;
use crate::abort::Aborter;
use crate::checks;
use crate::communicator::Communicator;
use crate::error::CollectiveError;
use crate::rank_group::RankGroup;
use crate::slice::{Slice, SliceMut};

/// Communicator of a group of one rank.
#[derive(Debug)]
pub struct Solo {
    abort: AbortSwitch,
    failed: Option<CollectiveError>,
}

impl Solo {
    /// Makes a communicator. It fails only if the process has no file descriptor left for the switch.
    pub fn new() -> Result<Self, CollectiveError> {
        Ok(Self::with_switch(&AbortSwitch::new()?))
    }

    /// Makes a communicator whose operations `abort` ends.
    pub fn with_switch(abort: &AbortSwitch) -> Self {
        Self { abort: abort.clone(), failed: None }
    }

    fn finish_operation(&mut self, checked: Result<(), CollectiveError>) -> Result<(), CollectiveError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.abort.check().and(checked);
        self.failed = result.clone().err();
        result
    }
}

impl Communicator for Solo {
    fn group(&self) -> RankGroup {
        RankGroup::solo()
    }

    fn all_reduce_sum(&mut self, _data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.finish_operation(Ok(()))
    }

    fn all_gather(&mut self, mine: Slice<'_>, counts: &[usize], out: SliceMut<'_>) -> Result<(), CollectiveError> {
        let copied = checks::check_all_gather(RankGroup::solo(), &mine, counts, &out).and_then(|()| {
            out.host_bytes()?.copy_from_slice(mine.host_bytes()?);
            Ok(())
        });
        self.finish_operation(copied)
    }

    fn broadcast(&mut self, root: usize, _data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.finish_operation(checks::check_root(RankGroup::solo(), root))
    }

    fn send(&mut self, to: usize, _data: Slice<'_>) -> Result<(), CollectiveError> {
        self.finish_operation(checks::check_peer(RankGroup::solo(), to))
    }

    fn recv(&mut self, from: usize, _data: SliceMut<'_>) -> Result<(), CollectiveError> {
        self.finish_operation(checks::check_peer(RankGroup::solo(), from))
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.finish_operation(Ok(()))
    }

    fn aborter(&self) -> Aborter {
        self.abort.aborter()
    }
}
