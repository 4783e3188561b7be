//! The calling end: a channel to a head with a certificate for `head.lockstep`.

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

/// Dials `endpoint`, with an address of the form `http://host:port`, and adds TLS.
///
/// # Errors
/// The host cannot be reached, or the handshake fails.
pub async fn connect(endpoint: &Endpoint, tls: Arc<Tls>) -> Result<Channel, tonic::transport::Error> {
    let connector = service_fn(move |uri: Uri| {
        let tls = tls.clone();
        async move { open_stream(&uri, &tls).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await
}

async fn open_stream(uri: &Uri, tls: &Arc<Tls>) -> io::Result<TlsStream<TcpStream>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(role::HEAD).map_err(io::Error::other)?;
    let connector = TlsConnector::from(tls.current_blocking().await?.client);
    let wrong = |error: io::Error| io::Error::new(error.kind(), format!("TLS with the head: {error}"));
    connector.connect(name, stream).await.map_err(wrong)
}
