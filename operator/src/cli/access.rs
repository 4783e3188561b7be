//! Access to an endpoint: the API key that a client sends, and the certificates that it trusts.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use lockstep_proto::names::env;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A channel that sends the key.
pub(super) type Connection = InterceptedService<Channel, SendKey>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(super) struct AccessFlags {
    /// API key, for an endpoint that asks for one
    #[arg(long, value_name = "KEY", env = env::API_KEY, hide_env_values = true, value_parser = parse_key)]
    api_key: Option<ApiKey>,
    /// File of certificates (PEM) of the authorities that an https endpoint's certificate may come from. Default: those
    /// that this machine trusts
    #[arg(long, value_name = "FILE", conflicts_with = "insecure_skip_tls_verify")]
    ca_file: Option<PathBuf>,
    /// Take any certificate of an https endpoint, which may then be anybody
    #[arg(long)]
    insecure_skip_tls_verify: bool,
}

/// An API key, whose text is not shown.
#[derive(Clone, PartialEq, Eq)]
struct ApiKey(String);

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }
}

/// Parses a key, or the first of a list as agents take it.
fn parse_key(list: &str) -> Result<ApiKey, &'static str> {
    let mut keys = list.split([',', '\n']).map(str::trim).filter(|key| !key.is_empty() && !key.starts_with('#'));
    let key = keys.next().ok_or("the key is empty")?;
    let is_key = key.bytes().all(|byte| byte.is_ascii_graphic());
    is_key.then(|| ApiKey(key.to_owned())).ok_or("a key has only visible ASCII characters, without spaces")
}

/// Adds the key to each request.
#[derive(Clone)]
pub(super) struct SendKey(Option<MetadataValue<Ascii>>);

impl Interceptor for SendKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

/// Failure to prepare for TLS.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    #[error("read the certificates of --ca-file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("--ca-file {} has no certificate in PEM", .0.display())]
    Empty(PathBuf),
    #[error("this machine has no file of authorities that it trusts: give one with --ca-file")]
    NoAuthorities,
    #[error("prepare for TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl AccessFlags {
    /// Returns the client's side of `channel`.
    pub(super) fn connection(&self, channel: Channel) -> Connection {
        let header = self.api_key.as_ref().and_then(|key| format!("Bearer {}", key.0).parse().ok());
        let header = header.map(|mut header: MetadataValue<Ascii>| {
            header.set_sensitive(true);
            header
        });
        InterceptedService::new(channel, SendKey(header))
    }

    /// Returns the settings of TLS with the authorities that the user trusts.
    ///
    /// # Errors
    /// The authorities cannot be read.
    pub(super) fn tls(&self) -> Result<ClientConfig, TrustError> {
        match &self.ca_file {
            _ if self.insecure_skip_tls_verify => tls_to_anybody(),
            Some(path) => {
                let unreadable = |source| TrustError::Unreadable { path: path.clone(), source };
                let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
                let found = found.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
                if found.is_empty() {
                    return Err(TrustError::Empty(path.clone()));
                }
                tls_with(found)
            }
            None => {
                let found = rustls_native_certs::load_native_certs().certs;
                if found.is_empty() { Err(TrustError::NoAuthorities) } else { tls_with(found) }
            }
        }
    }
}

fn tls_with(authorities: Vec<CertificateDer<'static>>) -> Result<ClientConfig, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(with_http2(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Returns settings of TLS that take any certificate. They are for peers that something else vouches for.
///
/// # Errors
/// The library refuses its own defaults.
pub(super) fn tls_to_anybody() -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(TakeAny(provider.signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(with_http2(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

fn with_http2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Takes any certificate whose key the peer has.
#[derive(Debug)]
struct TakeAny(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_of_a_list_is_sent() {
        for (list, expected) in [
            ("secret", Ok("secret")),
            (" a , b", Ok("a")),
            ("# of the team\n\nfirst\nsecond\n", Ok("first")),
            ("", Err("the key is empty")),
            ("two words", Err("a key has only visible ASCII characters, without spaces")),
        ] {
            assert_eq!(
                parse_key(list).as_ref().map(|key| key.0.as_str()).map_err(|error| *error),
                expected,
                "{list:?}"
            );
        }
        assert_eq!(format!("{:?}", parse_key("secret")), "Ok(a key)");
    }

    #[test]
    fn wrong_files_of_authorities_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let access = |name: &str, text: Option<&str>| {
            let path = folder.path().join(name);
            text.iter().for_each(|text| std::fs::write(&path, text).unwrap());
            AccessFlags { ca_file: Some(path), ..Default::default() }
        };
        for (name, text, part) in [("none", None, "No such file"), ("text", Some("hello"), "has no certificate in PEM")]
        {
            let error = access(name, text).tls().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(part), "{error}");
        }
    }
}
