//! A leaf: the certificate of one role, made and read back.

use k8s_openapi::jiff::Timestamp;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{GeneralName, X509Certificate};

use super::authority::{Authority, belongs, dated, named, only_certificate, read_certificate};
use super::life::{LEAF_LIFE, Life};
use super::{CertificateError, Role};

/// A leaf with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub certificate: String,
    pub key: String,
    pub life: Life,
}

impl Leaf {
    /// A new leaf of `role`. Both ends of a stream show one, so that it serves either; what it may do follows from its
    /// name.
    pub fn new(authority: &Authority, role: Role, now: Timestamp) -> Result<Self, CertificateError> {
        let life = Life::starting(now, LEAF_LIFE);
        let mut params = CertificateParams::new(vec![role.dns_name().to_owned()])?;
        dated(&mut params, life);
        params.distinguished_name = named(role.dns_name());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pair = KeyPair::generate()?;
        Ok(Self { certificate: authority.sign(&params, &pair)?, key: pair.serialize_pem(), life })
    }

    /// The leaf as a Secret holds it; `None` where it is not one of `role`, signed by `authority`, with its key, as agents
    /// take it.
    pub fn read(certificate: &str, key: &str, role: Role, authority: &Authority) -> Option<Self> {
        let pair = KeyPair::from_pem(key).ok()?;
        let life = read_certificate(certificate, |parsed| {
            let good = belongs(parsed, &pair) && is_of(parsed, role) && authority.signed(parsed);
            good.then(|| Life::said(parsed.validity()))
        })?;
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).ok()?;
        CertifiedKey::from_der(vec![only_certificate(certificate)?], private, &default_provider()).ok()?;
        Some(Self { certificate: certificate.into(), key: key.into(), life })
    }
}

/// Its one name is the role's: with a second one it could pose as another.
fn is_of(certificate: &X509Certificate<'_>, role: Role) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    matches!(names.value.general_names.as_slice(), [GeneralName::DNSName(name)] if *name == role.dns_name())
}
