//! The head's ports, bound before anything else starts, so that a taken one is found at once.

use std::net::SocketAddr;

use anyhow::Context as _;
use lockstep_proto::names::env;
use tokio::net::TcpListener;

use crate::config::HeadConfig;

pub struct Ports {
    pub control: TcpListener,
    pub grpc: Option<TcpListener>,
    pub http: Option<TcpListener>,
    addresses: [Option<SocketAddr>; 3],
}

impl Ports {
    /// # Errors
    /// Names the port that could not be bound and the variable that moves it.
    pub async fn bind(config: &HeadConfig) -> anyhow::Result<Self> {
        let client = |port: Option<u16>| port.map(|port| SocketAddr::new(config.host, port));
        let control = bind(config.control, "control", env::HEAD_PORT).await?;
        let grpc = match client(config.grpc_port) {
            Some(address) => Some(bind(address, "gRPC", env::GRPC_PORT).await?),
            None => None,
        };
        let http = match client(config.http_port) {
            Some(address) => Some(bind(address, "HTTP", env::HTTP_PORT).await?),
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

    pub fn control_address(&self) -> SocketAddr {
        // Filled by `bind`, the only way to make one.
        self.addresses[0].unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.addresses[1]
    }

    pub fn http_address(&self) -> Option<SocketAddr> {
        self.addresses[2]
    }
}

async fn bind(address: SocketAddr, what: &str, variable: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("bind the {what} port {address}: give another with {variable}, or 0 for a free one"))
}
