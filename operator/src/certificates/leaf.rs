//! A leaf, which is the certificate of one role: making one and parsing one.

use k8s_openapi::jiff::Timestamp;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{GeneralName, X509Certificate};

use super::authority::{Authority, common_name, inspect_certificate, is_key_of, only_certificate, set_lifetime};
use super::lifetime::{LEAF_LIFETIME, Lifetime};
use super::{CertificateError, CertificateRole};

/// Leaf with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub certificate: String,
    pub key: String,
    pub lifetime: Lifetime,
}

impl Leaf {
    /// Makes a new leaf for `role`. Both ends of a stream present a leaf, so each leaf serves clients and servers. The
    /// name in the leaf decides which calls its holder may make.
    pub fn new(authority: &Authority, role: CertificateRole, now: Timestamp) -> Result<Self, CertificateError> {
        let lifetime = Lifetime::starting_at(now, LEAF_LIFETIME);
        let mut params = CertificateParams::new(vec![role.dns_name().to_owned()])?;
        set_lifetime(&mut params, lifetime);
        params.distinguished_name = common_name(role.dns_name());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pair = KeyPair::generate()?;
        Ok(Self { certificate: authority.sign(&params, &pair)?, key: pair.serialize_pem(), lifetime })
    }

    /// Parses the leaf that a Secret holds. Returns `None` if the leaf is not one of `role`, `authority` did not sign
    /// it, `key` does not belong to the certificate, or agents would refuse the certificate.
    pub fn parse(certificate: &str, key: &str, role: CertificateRole, authority: &Authority) -> Option<Self> {
        let pair = KeyPair::from_pem(key).ok()?;
        let lifetime = inspect_certificate(certificate, |parsed| {
            let is_valid = is_key_of(&pair, parsed) && has_role(parsed, role) && authority.has_signed(parsed);
            is_valid.then(|| Lifetime::from_x509(parsed.validity()))
        })?;
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).ok()?;
        CertifiedKey::from_der(vec![only_certificate(certificate)?], private, &default_provider()).ok()?;
        Some(Self { certificate: certificate.into(), key: key.into(), lifetime })
    }
}

/// Returns true if the only name of `certificate` is that of `role`. A second name would let its holder pose as another
/// role.
fn has_role(certificate: &X509Certificate<'_>, role: CertificateRole) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    matches!(names.value.general_names.as_slice(), [GeneralName::DNSName(name)] if *name == role.dns_name())
}
