//! Checks of a caller's arguments, the same for every backend.

use crate::error::CollectiveError;
use crate::rank_group::RankGroup;
use crate::slice::{Slice, SliceMut};

fn usage(message: String) -> Result<(), CollectiveError> {
    Err(CollectiveError::Usage(message))
}

/// Checks that `counts` has an entry per rank, agrees with `mine` and fills `out`, and that the types agree.
pub(crate) fn check_all_gather(
    group: RankGroup,
    mine: &Slice<'_>,
    counts: &[usize],
    out: &SliceMut<'_>,
) -> Result<(), CollectiveError> {
    if mine.dtype() != out.dtype() {
        return usage(format!("all_gather of {:?} into {:?}: give both one type", mine.dtype(), out.dtype()));
    }
    if counts.len() != group.world_size() {
        return usage(format!("all_gather got {} counts for {} ranks", counts.len(), group.world_size()));
    }
    let (own, mine) = (counts[group.rank()], mine.len());
    if own != mine {
        return usage(format!("all_gather: counts[{}] is {own}, but this rank gives {mine} elements", group.rank()));
    }
    let total: usize = counts.iter().sum();
    if total != out.len() {
        return usage(format!("all_gather: the counts add up to {total}, but out holds {} elements", out.len()));
    }
    Ok(())
}

/// Checks that `root` is a rank of the group.
pub(crate) fn check_root(group: RankGroup, root: usize) -> Result<(), CollectiveError> {
    if root < group.world_size() {
        return Ok(());
    }
    usage(format!("rank {root} is outside the group of {}", group.world_size()))
}

/// Checks that `peer` is another rank of the group.
pub(crate) fn check_peer(group: RankGroup, peer: usize) -> Result<(), CollectiveError> {
    if peer == group.rank() {
        return usage(format!("rank {peer} cannot send to or receive from itself"));
    }
    check_root(group, peer)
}
