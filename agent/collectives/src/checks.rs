//! The rules on a caller's arguments, the same for every backend.

use crate::communicator::{CollectiveError, Group, Slice, SliceMut};

fn usage(message: String) -> Result<(), CollectiveError> {
    Err(CollectiveError::Usage(message))
}

/// `counts` covers the group, agrees with `mine`, and fills `out`; the types agree.
pub(crate) fn all_gather(
    group: Group,
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

/// `root` is a rank of the group.
pub(crate) fn root(group: Group, root: usize) -> Result<(), CollectiveError> {
    if root < group.world_size() {
        return Ok(());
    }
    usage(format!("rank {root} is outside the group of {}", group.world_size()))
}

/// `peer` is another rank of the group.
pub(crate) fn peer(group: Group, peer: usize) -> Result<(), CollectiveError> {
    if peer == group.rank() {
        return usage(format!("rank {peer} cannot send to or receive from itself"));
    }
    root(group, peer)
}
