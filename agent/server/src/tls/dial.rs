//! The calling end: a channel to a head that shows a certificate for `head.lockstep`.

use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use lockstep_proto::names::role;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::files::Tls;

/// Dials `endpoint`, whose address is `http://host:port`; TLS comes in here.
///
/// # Errors
/// No way there, or no handshake.
pub async fn connect(endpoint: &Endpoint, tls: Arc<Tls>) -> Result<Channel, tonic::transport::Error> {
    let connector = service_fn(move |uri: Uri| {
        let tls = tls.clone();
        async move { open(&uri, &tls).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await
}

async fn open(uri: &Uri, tls: &Arc<Tls>) -> io::Result<TlsStream<TcpStream>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(role::HEAD).map_err(io::Error::other)?;
    let connector = TlsConnector::from(tls.fresh().await?.client);
    let wrong = |error: io::Error| io::Error::new(error.kind(), format!("TLS with the head: {error}"));
    connector.connect(name, stream).await.map_err(wrong)
}
