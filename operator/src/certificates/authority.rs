//! A CA: making one, parsing one, and signing with it.

use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::CertificateError;
use super::lifetime::{CA_LIFETIME, Lifetime};

/// CA with its key.
pub(super) struct Authority {
    pub certificate: String,
    pub key: String,
    pub lifetime: Lifetime,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new CA for `cluster`.
    pub fn new(cluster: &str, now: Timestamp) -> Result<Self, CertificateError> {
        let lifetime = Lifetime::starting_at(now, CA_LIFETIME);
        let mut params = CertificateParams::default();
        set_lifetime(&mut params, lifetime);
        // Each CA of a cluster has a name of its own, by which a verifier finds the CA that signed a leaf.
        params.distinguished_name = common_name(&format!("lockstep {cluster} {}", now.as_second()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pair = KeyPair::generate()?;
        let certificate = params.self_signed(&pair)?.pem();
        Ok(Self { certificate, key: pair.serialize_pem(), lifetime, issuer: Issuer::new(params, pair) })
    }

    /// Parses the CA that a Secret holds. Returns `None` if agents would refuse the certificate, or if the key is not the
    /// certificate's.
    pub fn parse(certificate: &str, key: &str) -> Option<Self> {
        let pair = KeyPair::from_pem(key).ok()?;
        let lifetime = inspect_certificate(certificate, |parsed| {
            // The signature of a damaged certificate does not verify.
            let is_whole = parsed.is_ca() && is_key_of(&pair, parsed) && parsed.verify_signature(None).is_ok();
            is_whole.then(|| Lifetime::from_x509(parsed.validity()))
        })?;
        RootCertStore::empty().add(only_certificate(certificate)?).ok()?;
        let issuer = Issuer::from_ca_cert_pem(certificate, pair).ok()?;
        Some(Self { certificate: certificate.into(), key: key.into(), lifetime, issuer })
    }

    /// Signs a certificate of `params` and returns it as PEM.
    pub fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Result<String, CertificateError> {
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }

    /// Returns true if this CA signed `leaf`.
    pub fn has_signed(&self, leaf: &X509Certificate<'_>) -> bool {
        inspect_certificate(&self.certificate, |ca| leaf.verify_signature(Some(ca.public_key())).ok()).is_some()
    }
}

/// Parses the only certificate of `text` and returns what `inspect` returns for it.
pub(super) fn inspect_certificate<T>(text: &str, inspect: impl FnOnce(&X509Certificate<'_>) -> Option<T>) -> Option<T> {
    let der = only_certificate(text)?;
    let (rest, parsed) = X509Certificate::from_der(&der).ok()?;
    if rest.is_empty() { inspect(&parsed) } else { None }
}

/// Returns the only certificate of `text`. Returns `None` if `text` is no PEM or holds a second certificate: the
/// operator never writes two, and agents would read and trust both.
pub(super) fn only_certificate(text: &str) -> Option<CertificateDer<'static>> {
    let mut all = CertificateDer::pem_slice_iter(text.as_bytes());
    let only = all.next()?.ok()?;
    all.next().is_none().then_some(only)
}

/// Returns true if `key` is the key of `certificate`.
pub(super) fn is_key_of(key: &KeyPair, certificate: &X509Certificate<'_>) -> bool {
    certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
}

/// Returns a distinguished name that is only the common name `name`.
pub(super) fn common_name(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}

/// Writes `lifetime` into `params`.
pub(super) fn set_lifetime(params: &mut CertificateParams, lifetime: Lifetime) {
    let at = |seconds: i64| {
        let since = std::time::Duration::from_secs(seconds.try_into().unwrap_or_default());
        date_time_ymd(1970, 1, 1) + since
    };
    (params.not_before, params.not_after) = (at(lifetime.not_before), at(lifetime.not_after));
}
