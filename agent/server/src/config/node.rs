//! The command `node`, by which the head starts its own ranks: written here, and read back here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::args::Node;
use super::error::ConfigError;
use super::logging::LogConfig;
use super::values::{HostPort, Setting};
use super::{CommonConfig, ControlAddress, HeadConfig, MAX_LOCAL_WORLD_SIZE, MAX_WORLD_SIZE, NodeConfig, RingSetup};

impl HeadConfig {
    /// The head's own node, once the control port is bound to `control`.
    pub fn own_node(&self, control: SocketAddr, cluster_id: &str) -> NodeConfig {
        let host = match control.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        NodeConfig {
            ordinal: 0,
            local_world_size: self.topology.local_world_size,
            world_size: Some(self.topology.world_size),
            pipeline: None,
            control: ControlAddress::Known(HostPort { host: host.to_string(), port: control.port() }),
            ring: self.ring.clone(),
            probes: self.probes,
            advertise: self.advertise.clone(),
            common: CommonConfig {
                cluster_id: Some(cluster_id.to_owned()),
                follow_parent: true,
                ..self.common.clone()
            },
        }
    }
}

impl NodeConfig {
    /// Arguments that make a process of this program this node, with logs as in `log`; `None` where the control address
    /// is not known yet.
    pub fn to_arguments(&self, log: &LogConfig) -> Option<Vec<String>> {
        let ControlAddress::Known(control) = &self.control else { return None };
        let mut arguments = vec!["node".to_owned()];
        let mut say = |flag: &str, value: String| arguments.push(format!("--{flag}={value}"));
        say("control", control.to_string());
        say("ordinal", self.ordinal.to_string());
        say("local-world-size", self.local_world_size.to_string());
        if let Some(world_size) = self.world_size {
            say("world-size", world_size.to_string());
        }
        match &self.ring {
            RingSetup::Auto { listen, or_free: false } => say("ring-listen", listen.to_string()),
            RingSetup::Auto { listen, or_free: true } => say("ring-listen", format!("{listen},0")),
            RingSetup::Ring { listen, right, .. } => {
                say("ring-listen", listen.to_string());
                say("ring-right", right.to_string());
            }
        }
        if let Some(probes) = self.probes {
            say("host", probes.ip().to_string());
            say("probe-port", probes.port().to_string());
        }
        if let Some(host) = &self.advertise {
            say("advertise", host.clone());
        }
        let common = &self.common;
        if let Some(id) = &common.cluster_id {
            say("cluster-id", id.clone());
        }
        if let Some(key) = &common.group_key {
            say("group-key-file", key.display().to_string());
        }
        if let Some(folder) = &common.tls {
            say("tls-dir", folder.display().to_string());
        }
        if let Some(threads) = common.threads {
            say("threads", threads.to_string());
        }
        if let Some(isa) = &common.isa {
            say("isa", isa.clone());
        }
        say("log-format", log.format.as_str().to_owned());
        say("log", log.filter.clone());
        if common.follow_parent {
            arguments.push("--follow-parent".to_owned());
        }
        Some(arguments)
    }
}

/// How a node shows itself to others.
#[derive(Debug, Clone, Default)]
pub(super) struct Outward {
    pub probes: Option<SocketAddr>,
    pub advertise: Option<String>,
}

/// The node that such arguments tell of.
///
/// # Errors
/// An argument is wrong.
pub(super) fn from_arguments(node: &Node, outward: Outward, common: CommonConfig) -> Result<NodeConfig, ConfigError> {
    let said = |flag: &str, value: &str| Setting { name: format!("--{flag}"), value: value.to_owned() };
    let common = CommonConfig { follow_parent: common.follow_parent || node.follow_parent, ..common };
    let ordinal = said("ordinal", &node.ordinal).integer(0..=MAX_WORLD_SIZE - 1)?;
    let local_world_size = said("local-world-size", &node.local_world_size).integer(1..=MAX_LOCAL_WORLD_SIZE)?;
    let world_size = node.world_size.as_ref().map(|size| said("world-size", size).integer(1..=MAX_WORLD_SIZE));
    let world_size = world_size.transpose()?;
    let control = said("control", &node.control).host_port(None)?;
    let said_listen = said("ring-listen", &node.ring_listen);
    let (listen, or_free) = match said_listen.value.strip_suffix(",0") {
        Some(listen) => (listen, true),
        None => (said_listen.value.as_str(), false),
    };
    let listen: SocketAddr =
        listen.parse().map_err(|_| said_listen.invalid("give an IP address and a port, such as 127.0.0.1:0"))?;
    let ring = match &node.ring_right {
        None => RingSetup::Auto { listen, or_free },
        Some(right) => RingSetup::Ring {
            listen,
            right: said("ring-right", right).host_port(None)?,
            rank: ordinal,
            world_size: world_size
                .ok_or_else(|| ConfigError::missing("--world-size", "a ring needs its size; give it"))?,
        },
    };
    let control = ControlAddress::Known(control);
    let Outward { probes, advertise } = outward;
    Ok(NodeConfig { ordinal, local_world_size, world_size, pipeline: None, control, ring, probes, advertise, common })
}
