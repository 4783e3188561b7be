//! The gRPC endpoint of a group: the flags, the connection, and errors with a remedy.

use std::error::Error as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hyper_util::rt::TokioIo;
use lockstep_proto::errors::root_cause;
use lockstep_proto::names::{env, port};
use lockstep_proto::v1::cluster_client::ClusterClient;
use lockstep_proto::v1::inference_client::InferenceClient;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codegen::http::uri::Authority;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::service_fn;

use super::access::{AccessFlags, Connection, TrustError};
use super::running::{RunningGroup, running_groups};
use crate::keep_alive::KeepAlive;

/// Time after which an attempt to connect fails.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Args)]
pub(super) struct EndpointFlags {
    /// gRPC endpoint of the group: HOST:PORT, HOST or a URL, which begins with https:// if the endpoint speaks TLS.
    /// Default: the group that `lockstep up` runs here, else 127.0.0.1:50051
    #[arg(long, value_name = "HOST:PORT", env = env::ENDPOINT, value_parser = parse_endpoint)]
    endpoint: Option<Endpoint>,
    #[command(flatten)]
    pub access: AccessFlags,
}

impl EndpointFlags {
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
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => choose(running_groups())?,
        };
        Ok(Endpoint { access: self.access.clone(), ..endpoint })
    }
}

/// Chooses among the groups that run on this machine.
fn choose(groups: Vec<RunningGroup>) -> Result<Endpoint, EndpointError> {
    match &groups[..] {
        [] => Ok(Endpoint::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port::GRPC)),
        [group] => Ok(group.endpoint.clone()),
        _ => {
            let list = groups.iter().map(|group| format!("{} at {}", group.name, group.endpoint));
            Err(EndpointError::Ambiguous { groups: list.collect::<Vec<_>>().join(", ") })
        }
    }
}

/// An address, and how clients present themselves there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    is_tls: bool,
    /// Host and port.
    authority: Authority,
    access: AccessFlags,
}

impl Endpoint {
    /// Returns the endpoint at `port` of `address`, in plain text and without a key.
    pub(super) fn new(address: IpAddr, port: u16) -> Self {
        let authority = SocketAddr::new(address, port).to_string();
        Self::at(false, authority.parse().expect("an address and a port are an authority"))
    }

    fn at(is_tls: bool, authority: Authority) -> Self {
        Self { is_tls, authority, access: AccessFlags::default() }
    }

    /// Connects.
    ///
    /// # Errors
    /// No process listens there, or its certificate is not trusted.
    pub(super) async fn connect(&self) -> Result<Connection, EndpointError> {
        let unreachable = |cause| EndpointError::Unreachable { endpoint: self.to_string(), cause };
        // The URL only names the peer in HTTP/2.
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.authority));
        let endpoint = endpoint.map_err(unreachable)?.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let endpoint = KeepAlive::COMMAND.on_endpoint(endpoint);
        let channel: Result<Channel, _> = if self.is_tls {
            let (authority, config) = (self.authority.clone(), Arc::new(self.access.tls()?));
            let connect = move |_| connect_tls(authority.clone(), config.clone());
            endpoint.connect_with_connector(service_fn(connect)).await
        } else {
            endpoint.connect().await
        };
        Ok(self.access.connection(channel.map_err(unreachable)?))
    }

    pub(super) async fn inference(&self) -> Result<InferenceClient<Connection>, EndpointError> {
        Ok(InferenceClient::new(self.connect().await?))
    }

    pub(super) async fn cluster(&self) -> Result<ClusterClient<Connection>, EndpointError> {
        Ok(ClusterClient::new(self.connect().await?))
    }
}

/// Opens a TLS stream.
async fn connect_tls(
    authority: Authority,
    config: Arc<ClientConfig>,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(authority.as_str()).await?;
    stream.set_nodelay(true)?;
    KeepAlive::COMMAND.on_stream(&stream)?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    Ok(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority)
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
    let is_tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(format!("the scheme {scheme} is neither http nor https")),
    };
    let rest = rest.trim_end_matches('/');
    let authority: Authority = rest.parse().map_err(|_| "give HOST:PORT, e.g. 127.0.0.1:50051".to_owned())?;
    if authority.host().is_empty() {
        return Err("the host is missing; give HOST:PORT".into());
    }
    // An IPv6 address has colons of its own, inside brackets.
    let has_port = rest.rsplit_once(']').map_or(rest, |(_, after)| after).contains(':');
    match authority.port_u16() {
        Some(0) => Err("port 0 cannot be connected to; give a port from 1 to 65535".into()),
        Some(_) => Ok(Endpoint::at(is_tls, authority)),
        None if has_port => Err("the port must be a number from 1 to 65535".into()),
        None => match format!("{authority}:{}", port::GRPC).parse() {
            Ok(authority) => Ok(Endpoint::at(is_tls, authority)),
            Err(error) => Err(format!("{rest}: {error}")),
        },
    }
}

/// Reason why a group did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndpointError {
    #[error("no group can be reached at {endpoint} ({}); {}", root_cause(cause), remedy(endpoint, cause))]
    Unreachable { endpoint: String, cause: tonic::transport::Error },
    #[error(transparent)]
    Trust(#[from] TrustError),
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

/// Returns what to do about a connection that failed for `cause`.
fn remedy(endpoint: &str, cause: &tonic::transport::Error) -> String {
    let causes = std::iter::successors(cause.source(), |&cause| cause.source());
    let io = causes.filter_map(|cause| cause.downcast_ref::<io::Error>());
    match io.filter_map(|error| error.get_ref()?.downcast_ref::<rustls::Error>()).next() {
        Some(rustls::Error::InvalidCertificate(fault)) => match fault {
            CertificateError::UnknownIssuer => {
                "give the authority that the certificate comes from with --ca-file".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "name the endpoint as its certificate does".into()
            }
            _ => "give the endpoint a certificate that is valid".into(),
        },
        // The port answered in plain text.
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("the port does not speak TLS: try --endpoint {}", endpoint.replacen("https", "http", 1))
        }
        _ => format!("start one with `lockstep up FILE`, or name another with --endpoint or {}", env::ENDPOINT),
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
        Code::Unauthenticated => format!("{message}; give it with --api-key or {}", env::API_KEY),
        Code::DeadlineExceeded => format!("the deadline passed: {message}"),
        Code::NotFound => format!("{message}; the model name `default` always works"),
        Code::Unimplemented => {
            format!("the endpoint does not offer this call: {message}; connect to a Lockstep group of the same version")
        }
        // The first byte of an answer in HTTP/1, in TLS or of a page is no flag of gRPC.
        Code::Internal | Code::Unknown if is_no_grpc(message) => {
            "this is no gRPC port, or it speaks TLS; a head logs its gRPC port and its HTTP port when it starts: give the \
             gRPC port, and begin with https:// if the head serves TLS"
                .into()
        }
        // A port that speaks TLS hangs up on plain text, sooner or later.
        Code::Unknown | Code::Cancelled if ["transport error", "operation was canceled"].contains(&message) => format!(
            "the connection broke ({}): the head ended, or it serves TLS and the endpoint must begin with https://",
            root_cause(status)
        ),
        code => format!("the group answered {code:?}: {message}"),
    }
}

/// Returns true for what tonic says of an answer that is no gRPC, as an HTTP port gives it.
fn is_no_grpc(message: &str) -> bool {
    [
        "invalid compression flag",
        "grpc-status header missing",
        "protocol error: received message",
        "h2 protocol error: http2 error",
    ]
    .iter()
    .any(|part| message.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_this_machine_is_the_default() {
        let group =
            |name: &str, port| RunningGroup { name: name.into(), endpoint: Endpoint::new([127, 0, 0, 1].into(), port) };
        assert_eq!(choose(vec![]).unwrap().to_string(), "http://127.0.0.1:50051");
        assert_eq!(choose(vec![group("a", 7)]).unwrap().to_string(), "http://127.0.0.1:7");
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
            let parsed = parse_endpoint(value).map(|endpoint| endpoint.to_string());
            assert_eq!(parsed.as_deref().map_err(String::as_str), expected, "{value}");
        }
    }
}
