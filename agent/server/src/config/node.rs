//! The arguments of the command `node`. The head writes them to start its own ranks, and the child reads them back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::args::NodeArgs;
use super::error::ConfigError;
use super::logging::LogConfig;
use super::values::{HostPort, Setting};
use super::{CommonConfig, ControlAddress, HeadConfig, MAX_LOCAL_WORLD_SIZE, MAX_WORLD_SIZE, NodeConfig, RingSetup};

impl HeadConfig {
    /// Returns the configuration of node 0, after the head has bound its control port to `control`.
    pub(crate) fn own_node(&self, control: SocketAddr, cluster_id: &str) -> NodeConfig {
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
    /// Returns the arguments that start this node as a process, with the logs of `log`. Returns `None` if the control
    /// address is not known yet.
    pub(crate) fn to_arguments(&self, log: &LogConfig) -> Option<Vec<String>> {
        let ControlAddress::Known(control) = &self.control else { return None };
        let mut arguments = vec!["node".to_owned()];
        let mut add = |flag: &str, value: String| arguments.push(format!("--{flag}={value}"));
        add("control", control.to_string());
        add("ordinal", self.ordinal.to_string());
        add("local-world-size", self.local_world_size.to_string());
        if let Some(world_size) = self.world_size {
            add("world-size", world_size.to_string());
        }
        match &self.ring {
            RingSetup::Auto { listen, or_free: false } => add("ring-listen", listen.to_string()),
            RingSetup::Auto { listen, or_free: true } => add("ring-listen", format!("{listen},0")),
            RingSetup::Ring { listen, right, .. } => {
                add("ring-listen", listen.to_string());
                add("ring-right", right.to_string());
            }
        }
        if let Some(probes) = self.probes {
            add("host", probes.ip().to_string());
            add("probe-port", probes.port().to_string());
        }
        if let Some(host) = &self.advertise {
            add("advertise", host.clone());
        }
        let common = &self.common;
        if let Some(id) = &common.cluster_id {
            add("cluster-id", id.clone());
        }
        if let Some(key) = &common.group_key {
            add("group-key-file", key.display().to_string());
        }
        if let Some(folder) = &common.tls {
            add("tls-dir", folder.display().to_string());
        }
        if let Some(threads) = common.threads {
            add("threads", threads.to_string());
        }
        if let Some(isa) = &common.isa {
            add("isa", isa.clone());
        }
        add("log-format", log.format.as_str().to_owned());
        add("log", log.filter.clone());
        if common.follow_parent {
            arguments.push("--follow-parent".to_owned());
        }
        Some(arguments)
    }
}

/// Addresses by which others reach a node.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeAddresses {
    pub probes: Option<SocketAddr>,
    pub advertise: Option<String>,
}

/// Checks the arguments of the command `node`.
///
/// # Errors
/// An argument is wrong.
pub(super) fn from_arguments(
    node: &NodeArgs,
    addresses: NodeAddresses,
    common: CommonConfig,
) -> Result<NodeConfig, ConfigError> {
    let setting = |flag: &str, value: &str| Setting { name: format!("--{flag}"), value: value.to_owned() };
    let common = CommonConfig { follow_parent: common.follow_parent || node.follow_parent, ..common };
    let ordinal = setting("ordinal", &node.ordinal).integer(0..=MAX_WORLD_SIZE - 1)?;
    let local_world_size = setting("local-world-size", &node.local_world_size).integer(1..=MAX_LOCAL_WORLD_SIZE)?;
    let world_size = node.world_size.as_ref().map(|size| setting("world-size", size).integer(1..=MAX_WORLD_SIZE));
    let world_size = world_size.transpose()?;
    let control = setting("control", &node.control).host_port(None)?;
    let ring_listen = setting("ring-listen", &node.ring_listen);
    let (listen, or_free) = match ring_listen.value.strip_suffix(",0") {
        Some(listen) => (listen, true),
        None => (ring_listen.value.as_str(), false),
    };
    let listen: SocketAddr =
        listen.parse().map_err(|_| ring_listen.invalid("give an IP address and a port, such as 127.0.0.1:0"))?;
    let ring = match &node.ring_right {
        None => RingSetup::Auto { listen, or_free },
        Some(right) => RingSetup::Ring {
            listen,
            right: setting("ring-right", right).host_port(None)?,
            rank: ordinal,
            world_size: world_size.ok_or_else(|| {
                ConfigError::missing("--world-size", "--ring-right makes a ring; give the number of its ranks")
            })?,
        },
    };
    let control = ControlAddress::Known(control);
    let NodeAddresses { probes, advertise } = addresses;
    Ok(NodeConfig { ordinal, local_world_size, world_size, pipeline: None, control, ring, probes, advertise, common })
}
