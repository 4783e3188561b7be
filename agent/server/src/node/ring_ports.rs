//! The ring ports: each local rank listens on a port of its own, and joins an epoch's communicator through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use lockstep_collectives::ring::{self, Listener};
use lockstep_collectives::solo::Solo;
use lockstep_collectives::{AbortSwitch, CollectiveError, Communicators, RankGroup, Tuning};

use crate::auth::GroupKey;

/// Time without a byte from a peer after which a collective fails. The head notices a dead rank long before. The
/// timeout is for a node that has lost both the peer and the head.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of an epoch, from the head and from the node.
#[derive(Debug, Clone)]
pub(super) struct FormSpec {
    pub epoch: u64,
    pub cluster_id: String,
    /// Rank of the node's first local rank.
    pub first_rank: usize,
    /// Ring addresses of all ranks, by rank.
    pub addresses: Vec<String>,
    /// Number of pipeline stages.
    pub stages: usize,
    pub backend: String,
    pub num_blocks: u32,
    pub timeout: Duration,
    /// True if the machine has a core for every rank, so that a waiting rank may keep its core busy.
    pub spin: bool,
}

/// Ring ports of the local ranks. They stay bound from one epoch to the next.
#[derive(Clone)]
pub(super) struct RingPorts {
    listeners: Arc<Vec<Listener>>,
    key: Option<GroupKey>,
}

impl RingPorts {
    /// Binds one port for each local rank: the port of `listen` and the ports after it. Binds free ports if the port of
    /// `listen` is 0. If `or_free` is set, binds a free port in place of one that is in use.
    ///
    /// # Errors
    /// Names the address that could not be bound.
    pub(super) fn bind(listen: SocketAddr, or_free: bool, ranks: u32, key: Option<GroupKey>) -> anyhow::Result<Self> {
        let mut listeners = Vec::new();
        for rank in 0..ranks as u16 {
            let port = if listen.port() == 0 { 0 } else { listen.port().saturating_add(rank) };
            let address = SocketAddr::new(listen.ip(), port);
            let bound = match Listener::bind(address) {
                Err(error) if or_free => {
                    tracing::info!(%error, "taking a free ring port");
                    Listener::bind(SocketAddr::new(listen.ip(), 0))
                }
                bound => bound,
            };
            let listener = bound.map_err(|error| {
                anyhow::anyhow!(
                    "bind the ring port {address}: {error}; choose another port with RING_PORT or LOCKSTEP_RING_PORT"
                )
            })?;
            listeners.push(listener);
        }
        Ok(Self { listeners: Arc::new(listeners), key })
    }

    /// Returns the listener of the first local rank.
    pub(super) fn first(&self) -> &Listener {
        &self.listeners[0]
    }

    /// Returns the addresses of the ports, by local rank.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(Listener::local_addr).collect()
    }

    /// Returns the group's key in the form that the ring needs.
    ///
    /// # Errors
    /// Fails if the ring refuses the key.
    pub(super) fn ring_key(&self) -> Result<Option<ring::LinkKey>, CollectiveError> {
        self.key.as_ref().map(|key| ring::LinkKey::new(key.bytes())).transpose()
    }

    /// Joins an epoch as a local rank. The collectives count the pieces that they move in `moved`.
    ///
    /// # Errors
    /// Fails if a peer cannot be reached or does not belong to the group, if the epoch is aborted, or if the backend is
    /// unknown.
    pub(super) fn join_epoch(
        &self,
        local_rank: usize,
        spec: &FormSpec,
        moved: Arc<AtomicU64>,
        switch: &AbortSwitch,
    ) -> Result<Communicators, CollectiveError> {
        let (rank, world_size) = (spec.first_rank + local_rank, spec.addresses.len());
        let group = RankGroup::new(rank, world_size)
            .ok_or_else(|| CollectiveError::Usage(format!("rank {rank} is not below {world_size}")))?;
        match spec.backend.as_str() {
            "solo" => Ok(Solo::with_switch(switch).into()),
            "ring" => {
                let config = ring::RingConfig {
                    group,
                    epoch: spec.epoch,
                    cluster_id: spec.cluster_id.clone(),
                    key: self.ring_key()?,
                    addresses: spec.addresses.clone(),
                    op_timeout: OPERATION_TIMEOUT,
                    form_timeout: spec.timeout,
                    spin: spec.spin,
                    tuning: Tuning::default(),
                };
                ring::form_grid(&self.listeners[local_rank], config, spec.stages, Some(moved), switch)
            }
            other => {
                Err(CollectiveError::Usage(format!("the head asks for the backend `{other}`, which is unknown here")))
            }
        }
    }
}
