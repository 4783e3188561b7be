//! Where a group answers: the flag, the connection, and errors that say what to do.

use std::time::Duration;

use clap::Args;
use lockstep_proto::errors::root_cause;
use lockstep_proto::names::{env, port};
use lockstep_proto::v1::cluster_client::ClusterClient;
use lockstep_proto::v1::inference_client::InferenceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Args)]
pub(super) struct EndpointFlag {
    /// The group's gRPC endpoint: HOST:PORT, HOST or a URL
    #[arg(long, value_name = "HOST:PORT", env = env::ENDPOINT, default_value = "127.0.0.1:50051", value_parser = parse)]
    pub endpoint: Endpoint,
}

impl EndpointFlag {
    /// Whether it is the one that `lockstep up` offers by default.
    pub(super) fn is_default(&self) -> bool {
        self.endpoint == Endpoint::of("127.0.0.1", port::GRPC)
    }
}

/// A checked `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint(String);

impl Endpoint {
    /// The endpoint on this machine's loopback, or on `host`.
    pub(super) fn of(host: &str, port: u16) -> Self {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Self(format!("http://{host}:{port}"))
    }

    pub(super) async fn connect(&self) -> Result<Channel, EndpointError> {
        let unreachable = |cause| EndpointError::Unreachable { endpoint: self.0.clone(), cause };
        let endpoint = tonic::transport::Endpoint::from_shared(self.0.clone()).map_err(unreachable)?;
        endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect().await.map_err(unreachable)
    }

    pub(super) async fn inference(&self) -> Result<InferenceClient<Channel>, EndpointError> {
        Ok(InferenceClient::new(self.connect().await?))
    }

    pub(super) async fn cluster(&self) -> Result<ClusterClient<Channel>, EndpointError> {
        Ok(ClusterClient::new(self.connect().await?))
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn parse(typed: &str) -> Result<Endpoint, String> {
    let (scheme, rest) = typed.split_once("://").unwrap_or(("http", typed));
    if !["http", "https"].contains(&scheme) {
        return Err(format!("the scheme {scheme} is not one of http and https"));
    }
    let rest = rest.trim_end_matches('/');
    let authority: tonic::codegen::http::uri::Authority =
        rest.parse().map_err(|_| "give HOST:PORT, e.g. 127.0.0.1:50051".to_owned())?;
    if authority.host().is_empty() {
        return Err("the host is missing; give HOST:PORT".into());
    }
    // An address of IPv6 has colons of its own, inside brackets.
    let names_port = rest.rsplit_once(']').map_or(rest, |(_, after)| after).contains(':');
    match authority.port_u16() {
        Some(0) => Err("port 0 is no port to connect to".into()),
        Some(_) => Ok(Endpoint(format!("{scheme}://{authority}"))),
        None if names_port => Err("the port is no number up to 65535".into()),
        None => Ok(Endpoint(format!("{scheme}://{authority}:{}", port::GRPC))),
    }
}

/// Why a group did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndpointError {
    #[error(
        "no group can be reached at {endpoint} ({}); start one with `lockstep up FILE`, or name another with --endpoint or \
         {}",
        root_cause(cause),
        env::ENDPOINT
    )]
    Unreachable { endpoint: String, cause: tonic::transport::Error },
    #[error("{}", told(.0))]
    Refused(Box<Status>),
    #[error("write the answer: {0}")]
    Output(#[from] std::io::Error),
}

impl From<Status> for EndpointError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// A status in words, with the remedy where there is one.
fn told(status: &Status) -> String {
    let said = status.message();
    match status.code() {
        Code::InvalidArgument => format!("the request was refused: {said}"),
        Code::ResourceExhausted => format!("the queue is full: {said}; try again in a moment"),
        Code::Unavailable => match status.metadata().get("retry-after").and_then(|after| after.to_str().ok()) {
            Some(after) => format!("the group cannot serve now: {said}; try again in {after} s"),
            None => format!("the group cannot serve now: {said}; `lockstep status` says what it waits for"),
        },
        Code::DeadlineExceeded => format!("the deadline passed: {said}"),
        Code::NotFound => format!("{said}; the name `default` always works"),
        Code::Unimplemented => format!("this endpoint is no Lockstep group of this version: {said}"),
        code => format!("the group answered {code:?}: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn endpoints_as_typed() {
        for (typed, means) in [
            ("127.0.0.1:50051", Ok("http://127.0.0.1:50051")),
            ("head", Ok("http://head:50051")),
            ("http://head:7/", Ok("http://head:7")),
            ("https://head", Ok("https://head:50051")),
            ("[::1]:7", Ok("http://[::1]:7")),
            ("[::1]", Ok("http://[::1]:50051")),
            ("ftp://head", Err("the scheme ftp is not one of http and https")),
            ("", Err("give HOST:PORT, e.g. 127.0.0.1:50051")),
            ("head:0", Err("port 0 is no port to connect to")),
            ("head:99999", Err("the port is no number up to 65535")),
            ("head/v1", Err("give HOST:PORT, e.g. 127.0.0.1:50051")),
        ] {
            let parsed = parse(typed).map(|endpoint| endpoint.0);
            assert_eq!(parsed.as_deref().map_err(String::as_str), means, "{typed}");
        }
    }
}
