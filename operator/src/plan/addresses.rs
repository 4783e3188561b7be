//! Addresses of a plan's pods. A plan for Kubernetes and a plan for one machine differ only in their addresses.

use lockstep_proto::names::port;

use super::Names;

/// Ports of a group that runs as processes on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPorts {
    pub grpc: u16,
    pub http: u16,
    pub control: u16,
}

/// Addresses of every pod of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// Pods with DNS names and the default ports.
    Kubernetes,
    /// Processes on loopback that share the memory of one machine. The client ports bind to `host`. Each rank computes
    /// with `threads` threads.
    Local { host: String, ports: LocalPorts, threads: u32 },
}

impl Addresses {
    /// Returns the address of the head's control port, `host:port`.
    pub(super) fn control_address(&self, names: &Names) -> String {
        match self {
            Self::Kubernetes => format!("{}:{}", names.head_host(), port::CONTROL),
            Self::Local { ports, .. } => format!("127.0.0.1:{}", ports.control),
        }
    }

    /// Returns the ports of a group.
    pub(super) fn ports(&self) -> LocalPorts {
        match self {
            Self::Kubernetes => LocalPorts { grpc: port::GRPC, http: port::HTTP, control: port::CONTROL },
            Self::Local { ports, .. } => *ports,
        }
    }

    /// Returns the host that the client ports bind to.
    pub(super) fn client_host(&self) -> &str {
        match self {
            Self::Kubernetes => "0.0.0.0",
            Self::Local { host, .. } => host,
        }
    }
}
