//! How a node finds the head, and what it says of itself.

use std::time::Duration;

use anyhow::Context as _;
use lockstep_collectives::{AbortSwitch, RankGroup, ring};
use lockstep_proto::node as pb;
use tokio_util::sync::CancellationToken;

use super::{LONG_TURN, Node, RING_CLUSTER, devices};
use crate::auth;
use crate::config::{ControlAddress, HostPort, RingSetup};

/// The ring's own bootstrap may wait for neighbours that start much later.
const DISCOVER_TIMEOUT: Duration = Duration::from_secs(600);

/// A neighbour that is there answers at once.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

impl Node {
    /// Whether the next head may be elsewhere than the last: its address was learnt from the ring.
    pub(super) fn head_may_move(&self) -> bool {
        matches!(self.config.control, ControlAddress::FromRing { master: None })
    }

    /// The head's control address: told, or learnt from the neighbours in the ring. `None`: told to stop meanwhile.
    pub(super) async fn find_head(&mut self, stop: &CancellationToken) -> anyhow::Result<Option<String>> {
        let known = self.known_head();
        let Some(spec) = self.ring_spec(DISCOVER_TIMEOUT)? else { return Ok(known) };
        self.health.turn(LONG_TURN);
        tracing::info!(rank = spec.group.rank(), right = spec.right, "looking for the ring");
        let (links, switch) = (self.links.clone(), AbortSwitch::new()?);
        let abort = switch.clone();
        let search = tokio::task::spawn_blocking(move || ring::discover(links.first(), spec, &switch));
        let found = tokio::select! {
            found = search => found.context("look for the ring")?,
            () = stop.cancelled() => {
                abort.abort("told to stop");
                return Ok(None);
            }
        };
        let found = found.context("find the other ranks of the ring")?;
        tracing::info!(control = found.control, own = found.own, "found the ring");
        self.ring_addresses = vec![found.own];
        Ok(Some(known.unwrap_or(found.control)))
    }

    /// Calls the right neighbour again: where it is a new process, it learns from this its own address and this rank's,
    /// which it tells this rank's successor one day. Nothing waits for it.
    pub(super) fn greet_neighbour(&self) -> anyhow::Result<()> {
        let Some(spec) = self.ring_spec(GREETING_TIMEOUT)? else { return Ok(()) };
        let (links, switch) = (self.links.clone(), AbortSwitch::new()?);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = ring::discover(links.first(), spec, &switch) {
                tracing::debug!(%error, "did not reach the right neighbour");
            }
        });
        Ok(())
    }

    /// The head's address where the configuration says it.
    fn known_head(&self) -> Option<String> {
        match &self.config.control {
            ControlAddress::Known(address) => Some(address.to_string()),
            ControlAddress::FromRing { master } => master.as_ref().map(ToString::to_string),
        }
    }

    /// What this rank says and asks in the ring; `None`: the group was not told of by `RING_*`.
    fn ring_spec(&self, timeout: Duration) -> anyhow::Result<Option<ring::DiscoverConfig>> {
        let RingSetup::Ring { right, rank, world_size, .. } = &self.config.ring else { return Ok(None) };
        let group =
            RankGroup::new(*rank as usize, *world_size as usize).context("RING_RANK is not below RING_WORLD_SIZE")?;
        let control = match &self.config.control {
            ControlAddress::Known(address) => Some(ring::ControlAddress::Port(address.port)),
            ControlAddress::FromRing { .. } => None,
        };
        Ok(Some(ring::DiscoverConfig {
            group,
            cluster_id: self.config.common.cluster_id.clone().unwrap_or_else(|| RING_CLUSTER.into()),
            key: self.links.ring_key()?,
            right: right.to_string(),
            control,
            timeout,
        }))
    }

    pub(super) fn hello(&self) -> pb::Hello {
        let nonce = if self.key.is_some() { auth::nonce() } else { Vec::new() };
        pb::Hello {
            wire_version: pb::WIRE_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            cluster_id: self.config.common.cluster_id.clone().unwrap_or_default(),
            node: self.config.ordinal,
            local_world_size: self.config.local_world_size,
            world_size: self.config.world_size.unwrap_or(0),
            incarnation: self.incarnation,
            ring_addresses: self.ring_addresses.iter().map(|address| self.advertised(address)).collect(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            devices: (0..self.config.local_world_size as usize).map(|local_rank| self.device(local_rank)).collect(),
            backends: vec!["ring".to_owned()],
            nonce,
            last_epoch: self.last_epoch,
        }
    }

    /// What a local rank computes on.
    fn device(&self, local_rank: usize) -> String {
        devices::describe(&self.config.common.devices, local_rank, self.isa)
    }

    /// A ring address as others are told it: its port at the host that this node was told to advertise, if it was.
    fn advertised(&self, address: &str) -> String {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        match (&self.config.advertise, port) {
            (Some(host), Some(port)) => HostPort { host: host.clone(), port }.to_string(),
            _ => address.to_owned(),
        }
    }
}
