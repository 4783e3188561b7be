//! A CA: made, read back, and signing.

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
use super::life::{CA_LIFE, Life};

/// A CA with its key.
pub(super) struct Authority {
    pub certificate: String,
    pub key: String,
    pub life: Life,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new CA of `cluster`.
    pub fn new(cluster: &str, now: Timestamp) -> Result<Self, CertificateError> {
        let life = Life::starting(now, CA_LIFE);
        let mut params = CertificateParams::default();
        dated(&mut params, life);
        // Its own name for each CA of a cluster, so that whoever builds a chain finds the one that signed.
        params.distinguished_name = named(&format!("lockstep {cluster} {}", now.as_second()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pair = KeyPair::generate()?;
        let certificate = params.self_signed(&pair)?.pem();
        Ok(Self { certificate, key: pair.serialize_pem(), life, issuer: Issuer::new(params, pair) })
    }

    /// The CA as a Secret holds it; `None` where it is none that agents take, or certificate and key do not belong
    /// together.
    pub fn read(certificate: &str, key: &str) -> Option<Self> {
        let pair = KeyPair::from_pem(key).ok()?;
        let life = read_certificate(certificate, |parsed| {
            // What was damaged since it was made is not what its own signature is of.
            let ours = parsed.is_ca() && belongs(parsed, &pair) && parsed.verify_signature(None).is_ok();
            ours.then(|| Life::said(parsed.validity()))
        })?;
        RootCertStore::empty().add(only_certificate(certificate)?).ok()?;
        let issuer = Issuer::from_ca_cert_pem(certificate, pair).ok()?;
        Some(Self { certificate: certificate.into(), key: key.into(), life, issuer })
    }

    /// The certificate of `params`, signed.
    pub fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Result<String, CertificateError> {
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }

    /// This CA's signature is on `leaf`.
    pub fn signed(&self, leaf: &X509Certificate<'_>) -> bool {
        read_certificate(&self.certificate, |ca| leaf.verify_signature(Some(ca.public_key())).ok()).is_some()
    }
}

/// What `look` finds in the one certificate of `text`.
pub(super) fn read_certificate<T>(text: &str, look: impl FnOnce(&X509Certificate<'_>) -> Option<T>) -> Option<T> {
    let der = only_certificate(text)?;
    let (rest, parsed) = X509Certificate::from_der(&der).ok()?;
    if rest.is_empty() { look(&parsed) } else { None }
}

/// The one certificate of `text`, read as agents read it, so that nothing is kept which they refuse.
pub(super) fn only_certificate(text: &str) -> Option<CertificateDer<'static>> {
    let mut all = CertificateDer::pem_slice_iter(text.as_bytes());
    let only = all.next()?.ok()?;
    all.next().is_none().then_some(only)
}

/// `certificate` is of `key`.
pub(super) fn belongs(certificate: &X509Certificate<'_>, key: &KeyPair) -> bool {
    certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
}

pub(super) fn named(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}

/// Writes `life` into `params`.
pub(super) fn dated(params: &mut CertificateParams, life: Life) {
    let at = |seconds: i64| {
        let since = std::time::Duration::from_secs(seconds.try_into().unwrap_or_default());
        date_time_ymd(1970, 1, 1) + since
    };
    (params.not_before, params.not_after) = (at(life.not_before), at(life.not_after));
}
