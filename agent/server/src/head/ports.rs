//! The ports of the head. The head binds them before it starts any task, so it fails at once if a port is in use.

use std::net::SocketAddr;

use anyhow::Context as _;
use lockstep_proto::names::env;
use tokio::net::TcpListener;

use crate::config::HeadConfig;

/// Bound ports of the head.
pub(super) struct Ports {
    pub control: TcpListener,
    pub grpc: Option<TcpListener>,
    pub http: Option<TcpListener>,
    addresses: [Option<SocketAddr>; 3],
}

impl Ports {
    /// Binds the ports that the configuration asks for.
    ///
    /// # Errors
    /// Names the port that could not be bound, and the variable that changes it.
    pub(super) async fn bind(config: &HeadConfig) -> anyhow::Result<Self> {
        let client = |port: Option<u16>| port.map(|port| SocketAddr::new(config.host, port));
        let control = bind_port(config.control, "control", env::HEAD_PORT).await?;
        let grpc = match client(config.grpc_port) {
            Some(address) => Some(bind_port(address, "gRPC", env::GRPC_PORT).await?),
            None => None,
        };
        let http = match client(config.http_port) {
            Some(address) => Some(bind_port(address, "HTTP", env::HTTP_PORT).await?),
            None => None,
        };
        let address = |listener: &TcpListener| listener.local_addr().context("read a port's number");
        let addresses = [
            Some(address(&control)?),
            grpc.as_ref().map(address).transpose()?,
            http.as_ref().map(address).transpose()?,
        ];
        Ok(Self { control, grpc, http, addresses })
    }

    pub(super) fn control_address(&self) -> SocketAddr {
        // `bind` is the only constructor, and it always sets this address.
        self.addresses[0].unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    pub(super) fn grpc_address(&self) -> Option<SocketAddr> {
        self.addresses[1]
    }

    pub(super) fn http_address(&self) -> Option<SocketAddr> {
        self.addresses[2]
    }
}

async fn bind_port(address: SocketAddr, name: &str, variable: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| {
        format!("bind the {name} port {address}: choose another port with {variable}, or 0 for a free port")
    })
}
