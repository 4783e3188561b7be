//! The gRPC endpoint of a group: the flag, the connection, and errors with a remedy.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use lockstep_proto::errors::root_cause;
use lockstep_proto::names::{env, port};
use lockstep_proto::v1::cluster_client::ClusterClient;
use lockstep_proto::v1::inference_client::InferenceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::running::{RunningGroup, running_groups};

/// Time after which an attempt to connect fails.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Args)]
pub(super) struct EndpointFlag {
    /// gRPC endpoint of the group: HOST:PORT, HOST or a URL. Default: the group that `lockstep up` runs here, else
    /// 127.0.0.1:50051
    #[arg(long, value_name = "HOST:PORT", env = env::ENDPOINT, value_parser = parse_endpoint)]
    endpoint: Option<Endpoint>,
}

impl EndpointFlag {
    /// Returns true if the user names an endpoint.
    pub(super) fn is_given(&self) -> bool {
        self.endpoint.is_some()
    }

    /// Returns the endpoint that the user names, else that of the group that `lockstep up` runs on this machine, else the
    /// default of an agent.
    ///
    /// # Errors
    /// Several groups run here, and the user names none.
    pub(super) fn resolve(&self) -> Result<Endpoint, EndpointError> {
        match &self.endpoint {
            Some(endpoint) => Ok(endpoint.clone()),
            None => choose(running_groups()),
        }
    }
}

/// Chooses among the groups that run on this machine.
fn choose(groups: Vec<RunningGroup>) -> Result<Endpoint, EndpointError> {
    match &groups[..] {
        [] => Ok(Endpoint::new("127.0.0.1", port::GRPC)),
        [group] => Ok(group.endpoint.clone()),
        _ => {
            let list = groups.iter().map(|group| format!("{} at {}", group.name, group.endpoint));
            Err(EndpointError::Ambiguous { groups: list.collect::<Vec<_>>().join(", ") })
        }
    }
}

/// A valid URL of the form `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint(String);

impl Endpoint {
    /// Returns the endpoint at `port` of `host`.
    pub(super) fn new(host: &str, port: u16) -> Self {
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

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        parse_endpoint(value)
    }
}

/// Parses the value of `--endpoint`.
fn parse_endpoint(value: &str) -> Result<Endpoint, String> {
    let (scheme, rest) = value.split_once("://").unwrap_or(("http", value));
    if !["http", "https"].contains(&scheme) {
        return Err(format!("the scheme {scheme} is neither http nor https"));
    }
    let rest = rest.trim_end_matches('/');
    let authority: tonic::codegen::http::uri::Authority =
        rest.parse().map_err(|_| "give HOST:PORT, e.g. 127.0.0.1:50051".to_owned())?;
    if authority.host().is_empty() {
        return Err("the host is missing; give HOST:PORT".into());
    }
    // An IPv6 address has colons of its own, inside brackets.
    let has_port = rest.rsplit_once(']').map_or(rest, |(_, after)| after).contains(':');
    match authority.port_u16() {
        Some(0) => Err("port 0 cannot be connected to; give a port from 1 to 65535".into()),
        Some(_) => Ok(Endpoint(format!("{scheme}://{authority}"))),
        None if has_port => Err("the port must be a number from 1 to 65535".into()),
        None => Ok(Endpoint(format!("{scheme}://{authority}:{}", port::GRPC))),
    }
}

/// Reason why a group did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndpointError {
    #[error(
        "no group can be reached at {endpoint} ({}); start one with `lockstep up FILE`, or name another with --endpoint or \
         {}",
        root_cause(cause),
        env::ENDPOINT
    )]
    Unreachable { endpoint: String, cause: tonic::transport::Error },
    #[error("several groups run on this machine ({groups}): name one with --endpoint")]
    Ambiguous { groups: String },
    #[error("{}", describe_status(.0))]
    Refused(Box<Status>),
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
}

impl From<Status> for EndpointError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// Describes a gRPC status, with a remedy if there is one.
fn describe_status(status: &Status) -> String {
    let message = status.message();
    match status.code() {
        Code::InvalidArgument => format!("the request was refused: {message}"),
        Code::ResourceExhausted => format!("the queue is full: {message}; try again in a moment"),
        Code::Unavailable => match status.metadata().get("retry-after").and_then(|after| after.to_str().ok()) {
            Some(after) => format!("the group cannot serve now: {message}; try again in {after} s"),
            None => format!("the group cannot serve now: {message}; `lockstep status` shows which ranks are not ready"),
        },
        Code::DeadlineExceeded => format!("the deadline passed: {message}"),
        Code::NotFound => format!("{message}; the model name `default` always works"),
        Code::Unimplemented => {
            format!("the endpoint does not offer this call: {message}; connect to a Lockstep group of the same version")
        }
        // The first byte of an answer in HTTP/1 or of a page is no flag of gRPC.
        Code::Internal | Code::Unknown if is_no_grpc(message) => {
            "this is no gRPC port; a head logs its gRPC port and its HTTP port when it starts: give the gRPC port"
                .into()
        }
        code => format!("the group answered {code:?}: {message}"),
    }
}

/// Returns true for what tonic says of an answer that is no gRPC, as an HTTP port gives it.
fn is_no_grpc(message: &str) -> bool {
    ["invalid compression flag", "grpc-status header missing", "protocol error: received message"]
        .iter()
        .any(|part| message.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_this_machine_is_the_default() {
        let group = |name: &str, port| RunningGroup { name: name.into(), endpoint: Endpoint::new("127.0.0.1", port) };
        assert_eq!(choose(vec![]).unwrap().0, "http://127.0.0.1:50051");
        assert_eq!(choose(vec![group("a", 7)]).unwrap().0, "http://127.0.0.1:7");
        let error = choose(vec![group("a", 7), group("b", 8)]).unwrap_err().to_string();
        assert!(error.contains("a at http://127.0.0.1:7, b at http://127.0.0.1:8"), "{error}");
    }

    #[test]
    fn endpoints_are_parsed() {
        for (value, expected) in [
            ("127.0.0.1:50051", Ok("http://127.0.0.1:50051")),
            ("head", Ok("http://head:50051")),
            ("http://head:7/", Ok("http://head:7")),
            ("https://head", Ok("https://head:50051")),
            ("[::1]:7", Ok("http://[::1]:7")),
            ("[::1]", Ok("http://[::1]:50051")),
            ("ftp://head", Err("the scheme ftp is neither http nor https")),
            ("", Err("give HOST:PORT, e.g. 127.0.0.1:50051")),
            ("head:0", Err("port 0 cannot be connected to; give a port from 1 to 65535")),
            ("head:99999", Err("the port must be a number from 1 to 65535")),
            ("head/v1", Err("give HOST:PORT, e.g. 127.0.0.1:50051")),
        ] {
            let parsed = parse_endpoint(value).map(|endpoint| endpoint.0);
            assert_eq!(parsed.as_deref().map_err(String::as_str), expected, "{value}");
        }
    }
}
