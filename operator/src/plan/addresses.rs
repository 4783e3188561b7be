//! Where the pods of a plan are: what differs between Kubernetes and one machine, and nothing else does.

use lockstep_proto::names::port;

use super::Names;

/// Ports of a group that runs as processes of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPorts {
    pub grpc: u16,
    pub http: u16,
    pub control: u16,
}

/// Addresses of every pod of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// Pods behind DNS names, each with the default ports.
    Kubernetes { namespace: String },
    /// Processes on loopback. The client ports bind to `host`; each rank computes with `threads` threads, and ranks
    /// share the memory of one machine.
    Local { host: String, ports: LocalPorts, threads: u32 },
}

impl Addresses {
    /// Where workers reach the head's control port, `host:port`.
    pub(super) fn control(&self, names: &Names) -> String {
        match self {
            Self::Kubernetes { namespace } => format!("{}:{}", names.head_host(namespace), port::CONTROL),
            Self::Local { ports, .. } => format!("127.0.0.1:{}", ports.control),
        }
    }

    pub(super) fn ports(&self) -> LocalPorts {
        match self {
            Self::Kubernetes { .. } => LocalPorts { grpc: port::GRPC, http: port::HTTP, control: port::CONTROL },
            Self::Local { ports, .. } => *ports,
        }
    }

    /// What the client ports bind to.
    pub(super) fn client_host(&self) -> &str {
        match self {
            Self::Kubernetes { .. } => "0.0.0.0",
            Self::Local { host, .. } => host,
        }
    }
}
