//! Search for the head's address, and the node's Hello.

use std::time::Duration;

use anyhow::Context as _;
use lockstep_collectives::{AbortSwitch, RankGroup, ring};
use lockstep_proto::node as pb;
use tokio_util::sync::CancellationToken;

use super::{Node, RING_CLUSTER, devices};
use crate::auth;
use crate::config::{ControlAddress, HostPort, RingSetup};

/// Time for the ranks of a ring to find each other. Neighbours may start much later.
const DISCOVER_TIMEOUT: Duration = Duration::from_secs(600);
/// Time for which the liveness probe accepts that the node's loop stands still during the search for the ring. It is
/// longer than [`DISCOVER_TIMEOUT`], so the search ends first.
const DISCOVERY_LOOP_TIMEOUT: Duration = Duration::from_secs(900);
/// Time for a neighbour to answer a greeting. A running neighbour answers at once.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

impl Node {
    /// Returns true if a new head may have another address than the old one: this node learned the address from the
    /// ring.
    pub(super) fn head_may_move(&self) -> bool {
        matches!(self.config.control, ControlAddress::FromRing { master: None })
    }

    /// Returns the head's control address, from the configuration or from the neighbours in the ring. Returns `None` if
    /// the node was told to stop meanwhile.
    pub(super) async fn find_head(&mut self, stop: &CancellationToken) -> anyhow::Result<Option<String>> {
        let configured = self.configured_head();
        let Some(config) = self.discovery_config(DISCOVER_TIMEOUT)? else { return Ok(configured) };
        self.health.extend_loop_deadline(DISCOVERY_LOOP_TIMEOUT);
        tracing::info!(rank = config.group.rank(), right = config.right, "looking for the ring");
        let (ring_ports, switch) = (self.ring_ports.clone(), AbortSwitch::new()?);
        let abort = switch.clone();
        let search = tokio::task::spawn_blocking(move || ring::discover(ring_ports.first(), config, &switch));
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
        Ok(Some(configured.unwrap_or(found.control)))
    }

    /// Greets the right neighbour again, and does not wait for the answer. If a new process has taken the neighbour's
    /// place, the new process learns its own address and this rank's address from the greeting. If this rank is
    /// replaced later, the neighbour tells this rank's address to the process that replaces it.
    pub(super) fn greet_neighbour(&self) -> anyhow::Result<()> {
        let Some(config) = self.discovery_config(GREETING_TIMEOUT)? else { return Ok(()) };
        let (ring_ports, switch) = (self.ring_ports.clone(), AbortSwitch::new()?);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = ring::discover(ring_ports.first(), config, &switch) {
                tracing::debug!(%error, "did not reach the right neighbour");
            }
        });
        Ok(())
    }

    /// Returns the head's address if the configuration has it.
    fn configured_head(&self) -> Option<String> {
        match &self.config.control {
            ControlAddress::Known(address) => Some(address.to_string()),
            ControlAddress::FromRing { master } => master.as_ref().map(ToString::to_string),
        }
    }

    /// Returns this rank's settings for the discovery of the ring, or `None` if `RING_*` does not configure the group.
    fn discovery_config(&self, timeout: Duration) -> anyhow::Result<Option<ring::DiscoverConfig>> {
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
            key: self.ring_ports.ring_key()?,
            right: right.to_string(),
            control,
            timeout,
        }))
    }

    /// Returns this node's Hello for its next dial.
    pub(super) fn hello(&mut self) -> pb::Hello {
        self.dials += 1;
        let nonce = if self.key.is_some() { auth::nonce() } else { Vec::new() };
        pb::Hello {
            wire_version: pb::WIRE_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            cluster_id: self.config.common.cluster_id.clone().unwrap_or_default(),
            node: self.config.ordinal,
            local_world_size: self.config.local_world_size,
            world_size: self.config.world_size.unwrap_or(0),
            incarnation: self.incarnation,
            ring_addresses: self.ring_addresses.iter().map(|address| self.advertised_address(address)).collect(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            devices: (0..self.config.local_world_size as usize)
                .map(|local_rank| self.device_names(local_rank))
                .collect(),
            backends: vec!["ring".to_owned()],
            nonce,
            last_epoch: self.session.last_epoch(),
            dial: self.dials,
        }
    }

    /// Returns the names of a local rank's devices.
    fn device_names(&self, local_rank: usize) -> String {
        devices::describe_devices(&self.config.common.devices, local_rank, self.isa)
    }

    /// Returns a ring address as the node advertises it: with the configured host, if there is one.
    fn advertised_address(&self, address: &str) -> String {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        match (&self.config.advertise, port) {
            (Some(host), Some(port)) => HostPort { host: host.clone(), port }.to_string(),
            _ => address.to_owned(),
        }
    }
}
