//! The certificate of the client ports. The process reads it again at a new connection after a change.

use std::path::Path;
use std::sync::Arc;

use lockstep_engine::source::{read_secret_file, read_small_file};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

use super::files::{MAX_FILE, TlsError, describe_pem_error, provider};
use super::kept::{Digest, Kept};
use crate::config::CertificateFiles;

/// Protocols inside TLS, for ALPN.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Certificate and key of the client ports.
pub struct PortTls {
    files: CertificateFiles,
    kept: Kept<Arc<ServerConfig>>,
}

impl PortTls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file is missing or wrong. The error names the file.
    pub fn open(files: CertificateFiles) -> Result<Self, TlsError> {
        let pem = PortPem::read(&files)?;
        let kept = Kept::new(pem.digest(), pem.config(&files)?);
        Ok(Self { files, kept })
    }

    /// Returns the settings for a new connection, from the current files, or from the last valid ones.
    pub fn current(&self) -> Arc<ServerConfig> {
        let certificate = self.files.certificate.display();
        let log_news = || tracing::info!(%certificate, "read the client ports' new certificate");
        let refusal = "cannot use the client ports' new certificate: using the old one";
        self.kept.refresh(|known| self.read_changed(known), log_news, refusal)
    }

    /// Returns the digest and the settings of the files, unless their digest is `known`.
    fn read_changed(&self, known: Digest) -> Result<Option<(Digest, Arc<ServerConfig>)>, TlsError> {
        let pem = PortPem::read(&self.files)?;
        let digest = pem.digest();
        if digest == known { Ok(None) } else { Ok(Some((digest, pem.config(&self.files)?))) }
    }
}

/// Bytes of both files.
struct PortPem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl PortPem {
    fn read(files: &CertificateFiles) -> Result<Self, TlsError> {
        let unreadable = |path: &Path| {
            let path = path.display().to_string();
            |cause| TlsError::ReadFile { path, cause }
        };
        let CertificateFiles { certificate, key } = files;
        Ok(Self {
            certificate: read_small_file(certificate, MAX_FILE).map_err(unreadable(certificate))?,
            key: read_secret_file(key, MAX_FILE).map_err(unreadable(key))?,
        })
    }

    fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        hash.update((self.certificate.len() as u64).to_be_bytes());
        hash.update(&self.certificate);
        hash.update(&self.key);
        hash.finalize().into()
    }

    fn config(&self, files: &CertificateFiles) -> Result<Arc<ServerConfig>, TlsError> {
        let (certificate, key) = (files.certificate.display().to_string(), files.key.display().to_string());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.map_err(|error| TlsError::Malformed {
            path: certificate.clone(),
            problem: describe_pem_error(&error).into(),
        })?;
        if chain.is_empty() {
            return Err(TlsError::Empty { path: certificate, what: "certificate" });
        }
        let private = PrivateKeyDer::from_pem_slice(&self.key);
        let private = private.map_err(|_| TlsError::Empty { path: key.clone(), what: "private key" })?;
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let config = builder.and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
        let mut config = config.map_err(|error| TlsError::Mismatch { key, certificate, problem: error.to_string() })?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{expose, write_secret};

    fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
        let path = folder.join(name);
        write_secret(&path, text);
        path
    }

    fn certificate() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn certificates_are_read_anew_and_bad_ones_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (certificate(), certificate());
        let files = CertificateFiles {
            certificate: write(folder.path(), "port.crt", &first.0),
            key: write(folder.path(), "port.key", &first.1),
        };
        let tls = PortTls::open(files).unwrap();
        let before = tls.current();
        assert!(Arc::ptr_eq(&before, &tls.current()), "nothing has changed");
        write(folder.path(), "port.crt", &second.0);
        assert!(Arc::ptr_eq(&before, &tls.current()), "the key does not fit yet");
        let key = write(folder.path(), "port.key", &second.1);
        expose(&key);
        assert!(Arc::ptr_eq(&before, &tls.current()), "others can read the key");
        std::fs::remove_file(&key).unwrap();
        write(folder.path(), "port.key", &second.1);
        assert!(!Arc::ptr_eq(&before, &tls.current()));
    }

    #[test]
    fn wrong_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (certificate(), certificate());
        let both = format!("{}{}", first.0, first.1);
        let (certificate, key) = (first.0.as_str(), first.1.as_str());
        let cases = [
            (certificate, key, None),
            (both.as_str(), both.as_str(), None),
            (certificate, second.1.as_str(), Some("b is not the key of")),
            (certificate, "", Some("b holds no private key")),
            ("", key, Some("a holds no certificate")),
            ("-----BEGIN CERTIFICATE-----\nx", key, Some("a: the file ends within a section")),
        ];
        for (certificate, key, expected) in cases {
            let files = CertificateFiles {
                certificate: write(folder.path(), "a", certificate),
                key: write(folder.path(), "b", key),
            };
            let error = PortTls::open(files).err().map(|error| error.to_string());
            match (&error, expected) {
                (None, None) => {}
                (Some(error), Some(part)) => assert!(error.contains(part), "{error}"),
                _ => panic!("{error:?}, not {expected:?}"),
            }
        }
        let (certificate, key) = (write(folder.path(), "a", certificate), write(folder.path(), "b", key));
        expose(&key);
        let exposed = PortTls::open(CertificateFiles { certificate, key }).err().unwrap().to_string();
        assert!(exposed.contains("b: its mode 0644 gives other users access"), "{exposed}");
        let missing = CertificateFiles { certificate: folder.path().join("none"), key: folder.path().join("none") };
        assert!(PortTls::open(missing).err().unwrap().to_string().contains("none"));
    }
}
