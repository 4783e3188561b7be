//! How a node finds the head, and what it says of itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use lockstep_collectives::{AbortSwitch, Group, ring};
use lockstep_proto::node as pb;
use tokio_util::sync::CancellationToken;

use super::{Node, RING_CLUSTER};
use crate::auth;
use crate::config::{ControlAddress, RingSetup};

/// The ring's own bootstrap may wait for neighbours that start much later.
const DISCOVER_TIMEOUT: Duration = Duration::from_secs(600);

impl Node {
    /// The head's control address: told, or learnt from the neighbours in the ring. `None`: told to stop meanwhile.
    pub(super) async fn find_head(&mut self, stop: &CancellationToken) -> anyhow::Result<Option<String>> {
        let (known, port) = match &self.config.control {
            ControlAddress::Known(address) => (Some(address.to_string()), Some(address.port)),
            ControlAddress::FromRing { master } => (master.as_ref().map(ToString::to_string), None),
        };
        let RingSetup::Ring { right, rank, world_size, .. } = &self.config.ring else {
            return Ok(known);
        };
        let group =
            Group::new(*rank as usize, *world_size as usize).context("RING_RANK is not below RING_WORLD_SIZE")?;
        let spec = ring::DiscoverConfig {
            group,
            cluster_id: self.config.common.cluster_id.clone().unwrap_or_else(|| RING_CLUSTER.into()),
            key: self.links.ring_key()?,
            right: right.to_string(),
            control: port.map(ring::ControlAddress::Port),
            timeout: DISCOVER_TIMEOUT,
        };
        tracing::info!(rank, right = spec.right, "looking for the ring");
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
            ring_addresses: self.ring_addresses.clone(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            devices: vec![format!("cpu ({})", self.isa); self.config.local_world_size as usize],
            backends: vec!["ring".to_owned()],
            nonce,
            last_epoch: self.last_epoch,
            loaded_model: self.model.clone(),
            bytes_read: self.bytes_read(),
        }
    }

    fn bytes_read(&self) -> u64 {
        self.ranks.iter().map(|rank| rank.counters.bytes_read.load(Ordering::Relaxed)).sum()
    }
}
