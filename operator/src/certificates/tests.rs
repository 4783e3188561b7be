//! Three years of rotation, and the repair of Secrets that are not as they should be. rustls judges trust here, as it does
//! in agents.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::{CA_LIFETIME, CertificateRole, LEAF_LIFETIME, SPREAD, SecretsDecision, data, decide_secrets};
use crate::objects::ClusterIdentity;
use crate::plan::ClusterNames;

/// Seconds of Unix time at which the tests begin: mid-November 2023.
const START: i64 = 1_700_000_000;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn cluster() -> ClusterIdentity {
    let owner = OwnerReference { name: "llama".into(), uid: "6d1e".into(), ..OwnerReference::default() };
    ClusterIdentity { name: "llama".into(), namespace: "ml".into(), owner }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// Secrets as an API server would hold them.
#[derive(Default, Clone)]
struct StoredSecrets {
    secrets: Vec<Secret>,
    writes: u64,
}

impl StoredSecrets {
    fn new(now: i64) -> Self {
        let mut stored = Self::default();
        stored.apply_decision(now);
        stored
    }

    /// Decides at `now`, writes the Secrets of the decision, and returns their names.
    fn apply_decision(&mut self, now: i64) -> (SecretsDecision, Vec<String>) {
        let decision = decide_secrets(&cluster(), &self.secrets, at(now)).unwrap();
        let mut names = Vec::new();
        for mut secret in decision.write.clone() {
            let name = secret.metadata.name.clone().unwrap();
            let old = self.secrets.iter().position(|old| old.metadata.name == secret.metadata.name);
            let version = old.and_then(|old| self.secrets[old].metadata.resource_version.clone());
            assert_eq!(secret.metadata.resource_version, version, "{name} replaces the version that was read");
            self.writes += 1;
            secret.metadata.resource_version = Some(self.writes.to_string());
            match old {
                Some(old) => self.secrets[old] = secret,
                None => self.secrets.push(secret),
            }
            names.push(name);
        }
        (decision, names)
    }

    fn find_secret(&mut self, name: &str) -> &mut Secret {
        self.secrets.iter_mut().find(|secret| secret.metadata.name.as_deref() == Some(name)).unwrap()
    }

    fn text(&self, name: &str, key: &str) -> String {
        let secret = self.secrets.iter().find(|secret| secret.metadata.name.as_deref() == Some(name)).unwrap();
        let value = secret.data.as_ref().unwrap().get(key).map(|value| value.0.clone());
        String::from_utf8(value.unwrap_or_default()).unwrap()
    }

    fn set_value(&mut self, name: &str, key: &str, value: &str) {
        let data = self.find_secret(name).data.as_mut().unwrap();
        data.get_mut(key).unwrap().0 = value.as_bytes().to_vec();
    }

    /// Returns the files that pods see: each role's bundle and leaf.
    fn files(&self) -> BTreeMap<CertificateRole, Files> {
        let files = |role: CertificateRole| {
            let name = secret_name(role);
            let previous = self.text(&name, data::PREVIOUS_CERTIFICATE);
            let bundle = format!("{}{previous}", self.text(&name, data::CA_CERTIFICATE));
            (role, Files { bundle, leaf: self.text(&name, data::CERTIFICATE) })
        };
        CertificateRole::ALL.into_iter().map(files).collect()
    }
}

fn secret_name(role: CertificateRole) -> String {
    super::secret_name(&ClusterNames::new("llama"), role)
}

#[derive(Clone, PartialEq)]
struct Files {
    bundle: String,
    leaf: String,
}

/// Verifies `leaf` of `role` at `now` as an agent does that trusts `bundle`, at either end of a stream.
fn verify(bundle: &str, leaf: &str, role: CertificateRole, now: i64) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let (roots, provider) = (Arc::new(roots), Arc::new(default_provider()));
    let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now as u64));
    let server = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
    server.verify_server_cert(&leaf, &[], &ServerName::try_from(role.dns_name()).unwrap(), &[], now)?;
    let client = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
    client.verify_client_cert(&leaf, &[], now).map(|_| ())
}

/// Checks every leaf of one moment against every bundle of another.
fn check_all(leaves: &BTreeMap<CertificateRole, Files>, bundles: &BTreeMap<CertificateRole, Files>, now: i64) {
    for (role, files) in leaves {
        for other in bundles.values() {
            let verdict = verify(&other.bundle, &files.leaf, *role, now);
            assert!(verdict.is_ok(), "{role:?} at day {}: {verdict:?}", (now - START) / DAY);
        }
    }
}

/// Rotates for three years in steps of `step`. Pods that are one step behind or ahead of each other trust each other at
/// every step.
fn check_rotation(step: i64) {
    let mut stored = StoredSecrets::new(START);
    let mut before = stored.files();
    let (mut authorities, mut most) = (Vec::from([stored.text("llama-ca", data::CA_CERTIFICATE)]), 1);
    let mut now = START;
    while now < START + 3 * 365 * DAY {
        now += step;
        stored.apply_decision(now);
        let files = stored.files();
        if files != before || (now - START) / step % 16 == 0 {
            check_all(&files, &files, now);
            check_all(&before, &files, now);
            check_all(&files, &before, now);
        }
        let newest = stored.text("llama-ca", data::CA_CERTIFICATE);
        if authorities.last() != Some(&newest) {
            authorities.push(newest);
        }
        most = most.max(files[&CertificateRole::Head].bundle.matches("BEGIN CERTIFICATE").count());
        before = files;
    }
    // A new CA each two thirds of a year, and two at a time at most.
    assert_eq!((authorities.len(), most), (5, 2));
    let first = verify(&authorities[0], &before[&CertificateRole::Head].leaf, CertificateRole::Head, now);
    assert!(first.is_err(), "the first CA signs no more");
    assert_eq!(before[&CertificateRole::Head].bundle, *authorities.last().unwrap(), "and is no longer trusted");
}

#[test]
fn certificates_rotate_over_three_years_in_steps_of_less_than_a_spread() {
    check_rotation(23 * HOUR);
}

#[test]
fn certificates_rotate_over_three_years_in_steps_of_weeks() {
    check_rotation(7 * DAY);
}

/// Looking at the decided times is enough: each look writes something, no look before its time does, and looks are rare.
#[test]
fn certificates_rotate_over_three_years_by_looking_when_due() {
    let mut stored = StoredSecrets::default();
    let (mut now, mut looks) = (START, 0);
    while now < START + 3 * 365 * DAY {
        let (decision, written) = stored.apply_decision(now);
        assert!(!written.is_empty(), "day {}", (now - START) / DAY);
        let next = decision.look_again.as_second();
        assert!(next > now);
        assert_eq!(stored.apply_decision(next - 1).1, Vec::<String>::new());
        check_all(&stored.files(), &stored.files(), next - 1);
        (now, looks) = (next, looks + 1);
    }
    assert!(looks < 3 * 365 / 10, "{looks}");
}

#[test]
fn a_second_look_writes_nothing() {
    let mut stored = StoredSecrets::default();
    let (_, first) = stored.apply_decision(START);
    assert_eq!(first, ["llama-ca", "llama-head-tls", "llama-node-tls"]);
    assert!(stored.apply_decision(START).1.is_empty());
    assert!(stored.apply_decision(START + 19 * DAY).1.is_empty());
}

#[test]
fn secrets_have_type_owner_and_keys() {
    let stored = StoredSecrets::new(START);
    for secret in &stored.secrets {
        let name = secret.metadata.name.as_deref().unwrap();
        let kind = if name.ends_with("-tls") { "kubernetes.io/tls" } else { "Opaque" };
        assert_eq!(secret.type_.as_deref(), Some(kind), "{name}");
        assert_eq!(secret.metadata.namespace.as_deref(), Some("ml"));
        assert_eq!(secret.metadata.owner_references.as_ref().unwrap()[0].uid, "6d1e");
        if name.ends_with("-tls") {
            let keys: Vec<_> = secret.data.as_ref().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, ["ca.crt", "group.key", "tls.crt", "tls.key"], "the CA's key is in no pod");
        }
        assert_eq!(group_key(secret), group_key(&stored.secrets[0]), "{name}");
    }
    assert_eq!(group_key(&stored.secrets[0]).len(), 32);
    assert_ne!(group_key(&stored.secrets[0]), group_key(&StoredSecrets::new(START).secrets[0]), "keys are drawn");
}

/// Each way in which one Secret can be wrong, with the Secrets that are written because of it.
#[test]
fn a_wrong_secret_is_made_anew() {
    type Harm = fn(&mut StoredSecrets);
    let everything = ["llama-ca", "llama-head-tls", "llama-node-tls"];
    let node = ["llama-node-tls"];
    let cases: [(&str, Harm, &[&str]); 18] = [
        (
            "leaf gone",
            |stored| stored.secrets.retain(|one| one.metadata.name.as_deref() != Some("llama-node-tls")),
            &node,
        ),
        (
            "leaf garbage",
            |stored| stored.set_value("llama-node-tls", "tls.crt", "-----BEGIN CERTIFICATE-----\nAA\n"),
            &node,
        ),
        (
            "leaf no text",
            |stored| {
                stored.find_secret("llama-node-tls").data.as_mut().unwrap().get_mut("tls.crt").unwrap().0 = vec![255]
            },
            &node,
        ),
        ("leaf without data", |stored| stored.find_secret("llama-node-tls").data = None, &node),
        (
            "another's key",
            |stored| stored.set_value("llama-node-tls", "tls.key", &stored.text("llama-head-tls", "tls.key")),
            &node,
        ),
        (
            "another's name",
            |stored| {
                stored.find_secret("llama-node-tls").data = stored.clone().find_secret("llama-head-tls").data.clone()
            },
            &node,
        ),
        (
            "another CA's",
            |stored| {
                stored.find_secret("llama-node-tls").data =
                    StoredSecrets::new(START).find_secret("llama-node-tls").data.clone()
            },
            &node,
        ),
        (
            "a second certificate, and not whole",
            |stored| stored.set_value("llama-node-tls", "tls.crt", &(stored.text("llama-node-tls", "tls.crt") + TORN)),
            &node,
        ),
        (
            "a second CA",
            |stored| {
                stored.set_value(
                    "llama-ca",
                    "ca.crt",
                    &(stored.text("llama-ca", "ca.crt") + &StoredSecrets::new(START).text("llama-ca", "ca.crt")),
                )
            },
            &everything,
        ),
        (
            "CA damaged",
            |stored| stored.set_value("llama-ca", "ca.crt", &damage(&stored.text("llama-ca", "ca.crt"))),
            &everything,
        ),
        ("bundle changed", |stored| stored.set_value("llama-node-tls", "ca.crt", "x"), &node),
        ("not owned", |stored| stored.find_secret("llama-node-tls").metadata.owner_references = None, &node),
        ("not labelled", |stored| stored.find_secret("llama-node-tls").metadata.labels = None, &node),
        ("key too short", |stored| stored.set_value("llama-node-tls", "group.key", "short"), &node),
        ("key too long", |stored| stored.set_value("llama-ca", "group.key", &"x".repeat(5000)), &["llama-ca"]),
        ("no key but white space", |stored| stored.set_value("llama-ca", "group.key", &" ".repeat(32)), &["llama-ca"]),
        (
            "CA gone",
            |stored| stored.secrets.retain(|one| one.metadata.name.as_deref() != Some("llama-ca")),
            &everything,
        ),
        (
            "CA with a leaf's key",
            |stored| stored.set_value("llama-ca", "ca.key", &stored.text("llama-head-tls", "tls.key")),
            &everything,
        ),
    ];
    for (case, harm, expected) in cases {
        let mut stored = StoredSecrets::new(START);
        harm(&mut stored);
        assert_eq!(stored.apply_decision(START + DAY).1, expected, "{case}");
        assert!(stored.apply_decision(START + DAY).1.is_empty(), "{case}: set right at once");
        check_all(&stored.files(), &stored.files(), START + DAY);
    }
}

#[test]
fn a_leaf_is_not_accepted_as_a_ca() {
    let mut stored = StoredSecrets::new(START);
    for (to, from) in [("ca.crt", "tls.crt"), ("ca.key", "tls.key")] {
        stored.set_value("llama-ca", to, &stored.text("llama-head-tls", from));
    }
    assert_eq!(stored.apply_decision(START).1.len(), 3);
}

/// Every pod trusts a new CA before the CA signs, however late the operator looks.
#[test]
fn a_new_ca_signs_only_once_pods_trust_it() {
    let mut stored = StoredSecrets::new(START);
    let due = START + CA_LIFETIME.as_secs() as i64 / 3 * 2;
    stored.apply_decision(due - DAY);
    let old = stored.files();
    let (_, written) = stored.apply_decision(due);
    assert_eq!(written, ["llama-ca", "llama-head-tls", "llama-node-tls"]);
    let both = stored.files();
    assert!(CertificateRole::ALL.iter().all(|role| both[role].leaf == old[role].leaf));
    assert!(stored.apply_decision(due + SPREAD.as_secs() as i64 - 1).1.is_empty());

    // One Secret lacks the new CA: the old CA signs until that Secret has it.
    let mut late = stored.clone();
    late.set_value("llama-node-tls", "ca.crt", &old[&CertificateRole::Node].bundle);
    assert_eq!(late.apply_decision(due + 2 * DAY).1, ["llama-node-tls"]);
    assert_eq!(late.files()[&CertificateRole::Head].leaf, old[&CertificateRole::Head].leaf);

    assert_eq!(stored.apply_decision(due + 2 * DAY).1.len(), 3, "now the new one signs");
    assert_eq!(stored.files()[&CertificateRole::Head].bundle, both[&CertificateRole::Head].bundle);
    assert_eq!(stored.apply_decision(due + 3 * DAY).1.len(), 3, "and the old one goes");
    assert!(stored.apply_decision(due + 3 * DAY).1.is_empty());
}

/// The operator did not run until after a certificate's end, or its clock was ahead.
#[test]
fn a_certificate_outside_of_its_lifetime_is_made_anew() {
    for now in [START + LEAF_LIFETIME.as_secs() as i64 + 1, START + 2 * 365 * DAY, START - DAY] {
        let mut stored = StoredSecrets::new(START);
        let key = group_key(&stored.secrets[0]);
        assert_eq!(stored.apply_decision(now).1.len(), 3);
        check_all(&stored.files(), &stored.files(), now);
        assert!(stored.secrets.iter().all(|secret| group_key(secret) == key), "the groups' key is made once");
    }
}

/// The group key outlives the Secret for which it was drawn.
#[test]
fn a_lost_ca_leaves_the_group_key() {
    let mut stored = StoredSecrets::new(START);
    let key = group_key(&stored.secrets[0]);
    stored.secrets.remove(0);
    stored.apply_decision(START + DAY);
    assert!(stored.secrets.iter().all(|secret| group_key(secret) == key));
}

/// First bytes of a certificate.
const TORN: &str = "-----BEGIN CERTIFICATE-----\nMIIB";

/// Returns the certificate with another last byte, which belongs to its signature.
fn damage(pem: &str) -> String {
    let mut der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    *der.last_mut().unwrap() ^= 1;
    let base64 = serde_json::to_value(k8s_openapi::ByteString(der)).unwrap();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64.as_str().unwrap())
}

fn group_key(secret: &Secret) -> Vec<u8> {
    secret.data.as_ref().unwrap()[data::GROUP_KEY].0.clone()
}
