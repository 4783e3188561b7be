//! A mutually authenticated channel to a head's control port.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use lockstep_proto::names::{port, role};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::keep_alive::KeepAlive;

/// Maximum time for a connection and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum time for the connection alone, which needs no CPU of the head: the first attempt, and one more by TCP after 1 s.
const TCP_TIMEOUT: Duration = Duration::from_millis(1_500);

/// The operator's certificate for one cluster, and the CAs that the operator trusts there.
#[derive(Clone)]
pub struct Credentials(Arc<ClientConfig>);

/// Failure to load credentials or to reach a head.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("the Secret of the operator's certificate holds no usable {entry}")]
    Credentials { entry: &'static str },
    #[error("use the operator's certificate: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the head's control port did not answer in time")]
    Silent,
    #[error("reach the head: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl Credentials {
    /// Loads the credentials from a Secret's `ca.crt`, `tls.crt` and `tls.key`.
    ///
    /// # Errors
    /// One of them is missing or no PEM, or the key is not the certificate's.
    pub fn new(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, DialError> {
        let wrong = |entry| DialError::Credentials { entry };
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(ca) {
            roots.add(authority.map_err(|_| wrong("ca.crt"))?)?;
        }
        if roots.is_empty() {
            return Err(wrong("ca.crt"));
        }
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().map_err(|_| wrong("tls.crt"))?;
        if chain.is_empty() {
            return Err(wrong("tls.crt"));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| wrong("tls.key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // The session cache of rustls has room for 32 servers, which is tens of kilobytes for each cluster. The
        // operator seldom dials a head again.
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// Connects to the head at `address`.
    ///
    /// # Errors
    /// No process listens there, or the one that does is no head of this cluster.
    pub async fn dial(&self, address: IpAddr) -> Result<Channel, DialError> {
        let config = self.0.clone();
        let connect = move |_| {
            let config = config.clone();
            async move {
                let connected = tokio::time::timeout(TCP_TIMEOUT, TcpStream::connect((address, port::CONTROL))).await;
                let silent = || io::Error::new(io::ErrorKind::TimedOut, "nothing answers at the pod's address");
                let stream = connected.map_err(|_| silent())??;
                stream.set_nodelay(true)?;
                KeepAlive::OPERATOR.on_stream(&stream)?;
                let name = ServerName::try_from(role::HEAD).map_err(io::Error::other)?;
                let stream = TlsConnector::from(config).connect(name, stream).await?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        };
        let endpoint = Endpoint::from_static("http://head.lockstep").connect_timeout(CONNECT_TIMEOUT);
        let endpoint = KeepAlive::OPERATOR.on_endpoint(endpoint);
        let channel = endpoint.connect_with_connector(tower::service_fn(connect));
        Ok(tokio::time::timeout(2 * CONNECT_TIMEOUT, channel).await.map_err(|_| DialError::Silent)??)
    }
}
