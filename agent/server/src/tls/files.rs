//! `ca.crt`, `tls.crt` and `tls.key` of one folder → the TLS settings of both ends.
//!
//! Kubernetes changes a mounted Secret by replacing the link `..data`. The process reads all three files from the target of
//! that link, so that they belong together.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockstep_proto::names::env;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};

use lockstep_engine::source::{read_secret_file, read_small_file};

use super::kept::{Digest, Kept};

const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Link that Kubernetes replaces.
const DATA_LINK: &str = "..data";
/// Largest file, in bytes. A larger one is no certificate or key.
pub(super) const MAX_FILE: u64 = 1 << 20;
/// Longest chain of certificates, in bytes. rustls accepts at most 64 KiB from a peer, with framing.
const MAX_CHAIN: usize = 60 << 10;
/// Protocol inside TLS, for ALPN.
const HTTP_2: &[u8] = b"h2";

/// Error of the files of a folder.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {path}: {cause}; {variable} needs {CA}, {CERTIFICATE} and {KEY}", variable = env::TLS_DIR)]
    Read { path: String, cause: std::io::Error },
    #[error("read {path}: {cause}")]
    ReadFile { path: String, cause: std::io::Error },
    #[error("{path} holds no {what} in PEM: write one into it")]
    Empty { path: String, what: &'static str },
    #[error("{path}: {problem}")]
    Malformed { path: String, problem: String },
    #[error("{key} is not the key of {certificate}: {problem}")]
    Mismatch { key: String, certificate: String, problem: String },
    #[error("{path} is not for `{role}`: give this process a certificate with that DNS name")]
    Role { path: String, role: &'static str },
}

/// TLS settings of both ends of a connection.
#[derive(Clone)]
pub(crate) struct TlsConfigs {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
}

/// A folder of certificates. The process reads it again after a change.
pub struct Tls {
    folder: PathBuf,
    role: &'static str,
    kept: Kept<TlsConfigs>,
}

impl Tls {
    /// Reads the folder for a process of `role`.
    ///
    /// # Errors
    /// A file is missing or wrong. The error names the file.
    pub fn open(folder: &Path, role: &'static str) -> Result<Self, TlsError> {
        let (digest, configs) = Files::load(folder)?.into_configs(role)?;
        Ok(Self { folder: folder.to_owned(), role, kept: Kept::new(digest, configs) })
    }

    /// Returns the settings for a new connection, from the current files, or from the last valid ones.
    pub(crate) fn current(&self) -> TlsConfigs {
        // Kubernetes may replace the folder during the first read, so a second read comes before an error.
        let read = |known| self.load_changed(known).or_else(|_| self.load_changed(known));
        let log_news = || tracing::info!(folder = %self.folder.display(), "read new certificates");
        self.kept.refresh(read, log_news, "cannot use the new certificates: using the old ones")
    }

    /// Calls [`Tls::current`] outside the runtime's threads.
    pub(crate) async fn current_blocking(self: &Arc<Self>) -> std::io::Result<TlsConfigs> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.current()).await.map_err(std::io::Error::other)
    }

    /// Returns the digest and the settings of the files, unless their digest is `known`.
    fn load_changed(&self, known: Digest) -> Result<Option<(Digest, TlsConfigs)>, TlsError> {
        let files = Files::load(&self.folder)?;
        if files.digest() == known { Ok(None) } else { files.into_configs(self.role).map(Some) }
    }
}

/// Bytes of the three files.
struct Files {
    folder: PathBuf,
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn load(folder: &Path) -> Result<Self, TlsError> {
        let target = folder.join(DATA_LINK).canonicalize().unwrap_or_else(|_| folder.to_owned());
        let read = |name: &str| {
            let path = target.join(name);
            let bytes = if name == KEY { read_secret_file(&path, MAX_FILE) } else { read_small_file(&path, MAX_FILE) };
            let path = folder.join(name).display().to_string();
            bytes.map_err(|cause| match cause.kind() {
                ErrorKind::PermissionDenied => TlsError::ReadFile { path, cause },
                _ => TlsError::Read { path, cause },
            })
        };
        Ok(Self { ca: read(CA)?, certificate: read(CERTIFICATE)?, key: read(KEY)?, folder: folder.to_owned() })
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for part in [&self.ca, &self.certificate, &self.key] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn certificates(&self, name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let malformed =
            |error| TlsError::Malformed { path: self.path(name), problem: describe_pem_error(&error).into() };
        let all = all.map_err(malformed)?;
        if all.is_empty() {
            return Err(TlsError::Empty { path: self.path(name), what: "certificate" });
        }
        Ok(all)
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(CA, &self.ca)? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::Malformed { path: self.path(CA), problem: error.to_string() })?;
        }
        Ok(roots)
    }

    /// Returns the certificate of `role`, and the certificates between it and the CA.
    fn chain(&self, role: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let chain = self.certificates(CERTIFICATE, &self.certificate)?;
        if !has_dns_name(&chain[0], role) {
            return Err(TlsError::Role { path: self.path(CERTIFICATE), role });
        }
        let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
        if bytes > MAX_CHAIN {
            let certificates = chain.len();
            let problem = format!(
                "{certificates} certificates of {bytes} bytes: no peer accepts more than {MAX_CHAIN}; keep only the certificate \
                 of this process and those between it and the CA"
            );
            return Err(TlsError::Malformed { path: self.path(CERTIFICATE), problem });
        }
        Ok(chain)
    }

    fn into_configs(self, role: &'static str) -> Result<(Digest, TlsConfigs), TlsError> {
        let roots = Arc::new(self.roots()?);
        let chain = self.chain(role)?;
        let key = || {
            let empty = TlsError::Empty { path: self.path(KEY), what: "private key" };
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| empty)
        };
        let mismatch = |error: rustls::Error| TlsError::Mismatch {
            key: self.path(KEY),
            certificate: self.path(CERTIFICATE),
            problem: error.to_string(),
        };
        let malformed =
            |error: &dyn std::fmt::Display| TlsError::Malformed { path: self.path(CA), problem: error.to_string() };
        let provider = provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        // A caller has only one certificate, so it needs no list of CAs. A long list would not fit into a handshake.
        let verifier = verifier.clear_root_hint_subjects().build().map_err(|error| malformed(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| malformed(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .map_err(mismatch)?;
        server.alpn_protocols = vec![HTTP_2.to_vec()];
        // A resumed session could outlive its certificate.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| malformed(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)
            .map_err(mismatch)?;
        client.alpn_protocols = vec![HTTP_2.to_vec()];
        client.resumption = Resumption::disabled();
        Ok((self.digest(), TlsConfigs { server: Arc::new(server), client: Arc::new(client) }))
    }
}

/// Describes an error of a PEM file. The library's own message repeats the file, and the file may hold a key.
pub(super) fn describe_pem_error(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "the file ends within a section: write the whole file again, in PEM",
        pem::Error::IllegalSectionStart { .. } => {
            "the first line of a section is malformed: write the file again, in PEM"
        }
        pem::Error::Base64Decode(_) => "a section is not base64: write the file again, in PEM",
        _ => "the file is not PEM: write it again, in PEM",
    }
}

/// Returns the provider of cryptographic algorithms. The explicit provider makes TLS independent of the default that
/// another part of the process installs.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Returns true if a certificate has `role` among its DNS names.
pub(super) fn has_dns_name(certificate: &CertificateDer<'_>, role: &'static str) -> bool {
    let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(certificate), ServerName::try_from(role)) else {
        return false;
    };
    rustls::client::verify_server_name(&parsed, &name).is_ok()
}
