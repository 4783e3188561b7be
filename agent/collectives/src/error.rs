//! The errors of collectives and of forming a communicator.

/// Reason for which a collective failed, or a communicator could not be formed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CollectiveError {
    /// Another thread threw the abort switch.
    #[error("aborted: {0}")]
    Aborted(String),
    /// The link to a peer broke.
    #[error("link to rank {rank} closed: {reason}")]
    PeerLost { rank: usize, reason: String },
    /// Within the timeout, no byte moved, or the peer did not link to this rank.
    #[error("rank {rank} did not answer for {millis} ms")]
    Timeout { rank: usize, millis: u64 },
    /// A peer has another wire version, cluster, key, epoch, rank or world size, or it is in another operation.
    #[error("rank {rank} does not match this rank: {reason}")]
    Mismatch { rank: usize, reason: String },
    /// The caller's arguments contradict each other or the group.
    #[error("{0}")]
    Usage(String),
    /// The backend does not work on this machine.
    #[error("{backend} is not available: {reason}")]
    Unavailable { backend: &'static str, reason: String },
}

impl CollectiveError {
    /// Replaces the rank in the error by `global_ranks[rank]`, for a group that is part of a larger one.
    pub(crate) fn with_global_rank(mut self, global_ranks: &[usize]) -> Self {
        if let Self::PeerLost { rank, .. } | Self::Timeout { rank, .. } | Self::Mismatch { rank, .. } = &mut self
            && let Some(global_rank) = global_ranks.get(*rank)
        {
            *rank = *global_rank;
        }
        self
    }
}
