//! Changes of the prefix cache, for routers that send a prompt to the group that holds its beginning.

use crate::block_hash::BlockHash;

/// A change of the prefix cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockEvent {
    /// The cache is empty: its epoch has ended.
    Cleared,
    Stored(StoredBlock),
    /// The block with this hash is no longer cached.
    Removed {
        hash: u64,
    },
}

/// A full block that later sequences may share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlock {
    /// Name of the block: it stands for its tokens and all tokens before them.
    pub hash: u64,
    /// Hash of the block before it. `None` for the first block of a sequence.
    pub parent: Option<u64>,
    /// The block's own tokens.
    pub tokens: Vec<u32>,
}

/// Returns the name of a block outside of the schedule.
pub(crate) fn short_hash(hash: &BlockHash) -> u64 {
    let (first, _) = hash.split_at(size_of::<u64>());
    first.iter().fold(0, |hash, byte| (hash << u8::BITS) | u64::from(*byte))
}
