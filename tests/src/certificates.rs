//! Certificates of a cluster's roles, as the operator would make them, and files of secrets.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;

/// Writes a file that no other user can read at any time, as the agents demand of keys.
pub fn write_secret(path: &Path, content: &[u8]) {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).expect("a file");
    file.write_all(content).expect("written");
}

/// CA of a cluster.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a cluster of the tests");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for `role`. Returns the certificate and its key, in PEM.
    pub fn issue(&self, role: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![role.to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.0).expect("a certificate").pem(), key.serialize_pem())
    }

    /// Makes a folder for `LOCKSTEP_TLS_DIR`, with a certificate for `role`.
    pub fn folder(&self, role: &str) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        self.write(folder.path(), role, &[self]);
        folder
    }

    /// Writes a new certificate for `role` into a folder that trusts `trusted`.
    pub fn write(&self, folder: &Path, role: &str, trusted: &[&Self]) {
        let (certificate, key) = self.issue(role);
        let bundle: String = trusted.iter().map(|authority| authority.pem()).collect();
        for (name, text) in [("ca.crt", bundle), ("tls.crt", certificate), ("tls.key", key)] {
            write_secret(&folder.join(name), text.as_bytes());
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
