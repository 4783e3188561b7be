//! Where the local ranks listen, and how they join a communicator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use lockstep_collectives::ring::{self, Listener};
use lockstep_collectives::solo::Solo;
use lockstep_collectives::{AbortSwitch, CollectiveError, Communicators, RankGroup, Tuning};

use crate::auth::GroupKey;

/// No byte from a peer for this long ends a collective. The head notices a dead rank long before; this is for a node
/// that has lost the head as well.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// What the head says of an epoch, and what the node adds.
#[derive(Debug, Clone)]
pub struct FormSpec {
    pub epoch: u64,
    pub cluster_id: String,
    /// Of the node's first local rank.
    pub first_rank: usize,
    pub addresses: Vec<String>,
    /// Pipeline stages.
    pub stages: usize,
    pub backend: String,
    pub num_blocks: u32,
    pub timeout: Duration,
    /// A waiting rank may keep its core busy: there are cores enough.
    pub spin: bool,
}

/// The local ranks' ring ports; they stay bound while epochs come and go.
#[derive(Clone)]
pub struct Links {
    listeners: Arc<Vec<Listener>>,
    key: Option<GroupKey>,
}

impl Links {
    /// Binds one port for each local rank: `listen`'s and the ones after it, or free ones where that is 0. `or_free`: a
    /// free one in place of one that is taken.
    ///
    /// # Errors
    /// Names the address that could not be bound.
    pub fn bind(listen: SocketAddr, or_free: bool, ranks: u32, key: Option<GroupKey>) -> anyhow::Result<Self> {
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
            let named = bound.map_err(|error| {
                anyhow::anyhow!(
                    "bind the ring port {address}: {error}; choose another with RING_PORT or LOCKSTEP_RING_PORT"
                )
            })?;
            listeners.push(named);
        }
        Ok(Self { listeners: Arc::new(listeners), key })
    }

    /// The first local rank's.
    pub fn first(&self) -> &Listener {
        &self.listeners[0]
    }

    /// Where the ports are, in order of local rank.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(Listener::local_addr).collect()
    }

    /// The group's key as the ring takes it.
    ///
    /// # Errors
    /// Where the ring does not take it.
    pub fn ring_key(&self) -> Result<Option<ring::LinkKey>, CollectiveError> {
        self.key.as_ref().map(|key| ring::LinkKey::new(key.bytes())).transpose()
    }

    /// Joins an epoch.
    ///
    /// # Errors
    /// [`CollectiveError`]: a peer that cannot be reached or does not belong, an abort, a backend that is not there.
    pub fn form(
        &self,
        local_rank: usize,
        spec: &FormSpec,
        progress: Arc<AtomicU64>,
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
                ring::form_grid(&self.listeners[local_rank], config, spec.stages, Some(progress), switch)
            }
            other => {
                Err(CollectiveError::Usage(format!("the head asks for the backend `{other}`, which is unknown here")))
            }
        }
    }
}
