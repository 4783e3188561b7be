//! `ca.crt`, `tls.crt` and `tls.key` of one folder → what connections are made with.
//!
//! Kubernetes changes a mounted Secret by exchanging the link `..data`, so all three files are read from the folder
//! that it leads to: they belong together.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lockstep_proto::names::env;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};

use lockstep_engine::source::read_small_file;

const CA: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// The link that Kubernetes exchanges.
const DATA_LINK: &str = "..data";
/// Larger files are something else.
const MAX_FILE: u64 = 1 << 20;
/// Longest chain of certificates, in bytes: rustls takes no more than 64 KiB from a peer, their framing included.
const MAX_CHAIN: usize = 60 << 10;
/// What is spoken inside.
const HTTP_2: &[u8] = b"h2";

/// Why a folder's files are no good.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {path}: {cause}; {variable} needs {CA}, {CERTIFICATE} and {KEY}", variable = env::TLS_DIR)]
    Read { path: String, cause: std::io::Error },
    #[error("{path} holds no {what} in PEM")]
    Nothing { path: String, what: &'static str },
    #[error("{path}: {problem}")]
    Malformed { path: String, problem: String },
    #[error("{key} is not the key of {certificate}: {problem}")]
    Mismatch { key: String, certificate: String, problem: String },
    #[error("{path} is not for `{role}`: give this process a certificate with that DNS name")]
    Role { path: String, role: &'static str },
}

/// Both ends of a connection.
#[derive(Clone)]
pub struct Sides {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
}

struct State {
    digest: [u8; 32],
    sides: Sides,
    /// What was wrong with the files when they were last looked at; said once.
    complaint: Option<String>,
}

/// A folder of certificates, read anew where it changes.
pub struct Tls {
    folder: PathBuf,
    role: &'static str,
    state: Mutex<State>,
}

impl Tls {
    /// Reads the folder for a process of `role`.
    ///
    /// # Errors
    /// Names the file that is missing or wrong.
    pub fn open(folder: &Path, role: &'static str) -> Result<Self, TlsError> {
        let (digest, sides) = Files::read(folder)?.sides(role)?;
        let state = Mutex::new(State { digest, sides, complaint: None });
        Ok(Self { folder: folder.to_owned(), role, state })
    }

    /// What new connections are made with: the files as they are now, or the last that were good.
    pub fn now(&self) -> Sides {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A folder that was exchanged while it was read is read once more before anyone hears of it.
        let read = self.look(state.digest).or_else(|_| self.look(state.digest));
        match read {
            Ok(None) => state.complaint = None,
            Ok(Some((digest, sides))) => {
                tracing::info!(folder = %self.folder.display(), "read new certificates");
                *state = State { digest, sides, complaint: None };
            }
            Err(error) => {
                let text = error.to_string();
                if state.complaint.as_ref() != Some(&text) {
                    tracing::error!(error = text, "cannot use the new certificates: the old ones serve on");
                    state.complaint = Some(text);
                }
            }
        }
        state.sides.clone()
    }

    /// [`Tls::now`], off the runtime's threads.
    pub async fn fresh(self: &Arc<Self>) -> std::io::Result<Sides> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.now()).await.map_err(std::io::Error::other)
    }

    fn look(&self, known: [u8; 32]) -> Result<Option<([u8; 32], Sides)>, TlsError> {
        let files = Files::read(&self.folder)?;
        if files.digest() == known { Ok(None) } else { files.sides(self.role).map(Some) }
    }
}

/// The bytes of the three files.
struct Files {
    folder: PathBuf,
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(folder: &Path) -> Result<Self, TlsError> {
        let behind = folder.join(DATA_LINK).canonicalize().unwrap_or_else(|_| folder.to_owned());
        let read = |name: &str| {
            let bytes = read_small_file(&behind.join(name), MAX_FILE);
            bytes.map_err(|cause| TlsError::Read { path: folder.join(name).display().to_string(), cause })
        };
        Ok(Self { ca: read(CA)?, certificate: read(CERTIFICATE)?, key: read(KEY)?, folder: folder.to_owned() })
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.ca, &self.certificate, &self.key] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn certificates(&self, name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let malformed = |error| TlsError::Malformed { path: self.path(name), problem: no_pem(&error).into() };
        let all = all.map_err(malformed)?;
        if all.is_empty() {
            return Err(TlsError::Nothing { path: self.path(name), what: "certificate" });
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

    /// The certificate of `role`, and those between it and the CA.
    fn chain(&self, role: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let chain = self.certificates(CERTIFICATE, &self.certificate)?;
        if !names(&chain[0], role) {
            return Err(TlsError::Role { path: self.path(CERTIFICATE), role });
        }
        let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
        if bytes > MAX_CHAIN {
            let certificates = chain.len();
            let problem = format!(
                "{certificates} certificates of {bytes} bytes: no peer takes more than {MAX_CHAIN}; leave the one of this \
                 process and those between it and the CA"
            );
            return Err(TlsError::Malformed { path: self.path(CERTIFICATE), problem });
        }
        Ok(chain)
    }

    fn sides(self, role: &'static str) -> Result<([u8; 32], Sides), TlsError> {
        let roots = Arc::new(self.roots()?);
        let chain = self.chain(role)?;
        let key = || {
            let nothing = TlsError::Nothing { path: self.path(KEY), what: "private key" };
            PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| nothing)
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
        // A caller has one certificate, so it needs no list of CAs to choose by; a long list does not fit a handshake.
        let verifier = verifier.clear_root_hint_subjects().build().map_err(|error| malformed(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| malformed(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .map_err(mismatch)?;
        server.alpn_protocols = vec![HTTP_2.to_vec()];
        // A resumed session would outlive the certificate that it began with.
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
        Ok((self.digest(), Sides { server: Arc::new(server), client: Arc::new(client) }))
    }
}

/// What is wrong with a file of PEM. The error's own words repeat the file, in which somebody may have put a key.
fn no_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => {
            "it ends within a section: it is not whole, or its lines are not those of PEM"
        }
        pem::Error::IllegalSectionStart { .. } => "the first line of a section is not PEM's",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it is no PEM",
    }
}

/// The cryptography, named here so that nothing depends on what another part of the process installed.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whether a certificate has `role` among its DNS names.
pub(super) fn names(certificate: &CertificateDer<'_>, role: &'static str) -> bool {
    let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(certificate), ServerName::try_from(role)) else {
        return false;
    };
    rustls::client::verify_server_name(&parsed, &name).is_ok()
}
