//! The identity of a rank in one epoch, as greetings present it.

use crate::rank_group::RankGroup;
use crate::ring::greeting::{Greeting, Purpose};
use crate::ring::key::LinkKey;

/// A rank's group, epoch, cluster and key.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) group: RankGroup,
    pub(crate) epoch: u64,
    pub(crate) cluster_id: String,
    pub(crate) key: Option<LinkKey>,
}

impl Identity {
    /// Makes this rank's greeting to rank `to`.
    pub(crate) fn greeting(&self, purpose: Purpose, to: usize) -> Greeting {
        Greeting::new(purpose, self.group, to, self.epoch, &self.cluster_id, self.key.is_some())
    }
}
