//! Three years of rotation, and what is done about Secrets that are not as they should be. Trust is judged as agents
//! judge it, by rustls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::{CA_LIFE, Decision, LEAF_LIFE, Role, SPREAD, data, decide};
use crate::plan::ClusterNames;
use crate::reconcile::validate::{Defaults, Validated, validate};
use crate::resource::testing;

/// Seconds of Unix time at which the tests begin: mid-November 2023.
const START: i64 = 1_700_000_000;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn cluster() -> Validated {
    let cluster = testing::cluster("{ model: { source: 'builtin://tiny' } }");
    validate(&cluster, &Defaults { agent_image: "agent:1".into(), operator_pods: None }).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// Secrets as an API server would hold them.
#[derive(Default, Clone)]
struct Held {
    secrets: Vec<Secret>,
    writes: u64,
}

impl Held {
    fn new(now: i64) -> Self {
        let mut held = Self::default();
        held.look(now);
        held
    }

    /// Writes what is decided; the names of what was written.
    fn look(&mut self, now: i64) -> (Decision, Vec<String>) {
        let decision = decide(&cluster().identity, &self.secrets, at(now)).unwrap();
        let mut names = Vec::new();
        for mut secret in decision.write.clone() {
            let name = secret.metadata.name.clone().unwrap();
            let old = self.secrets.iter().position(|old| old.metadata.name == secret.metadata.name);
            let version = old.and_then(|old| self.secrets[old].metadata.resource_version.clone());
            assert_eq!(secret.metadata.resource_version, version, "{name} replaces what was read");
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

    fn secret(&mut self, name: &str) -> &mut Secret {
        self.secrets.iter_mut().find(|secret| secret.metadata.name.as_deref() == Some(name)).unwrap()
    }

    fn text(&self, name: &str, key: &str) -> String {
        let secret = self.secrets.iter().find(|secret| secret.metadata.name.as_deref() == Some(name)).unwrap();
        let value = secret.data.as_ref().unwrap().get(key).map(|value| value.0.clone());
        String::from_utf8(value.unwrap_or_default()).unwrap()
    }

    fn set(&mut self, name: &str, key: &str, value: &str) {
        let data = self.secret(name).data.as_mut().unwrap();
        data.get_mut(key).unwrap().0 = value.as_bytes().to_vec();
    }

    /// What pods see of it: each role's bundle and leaf.
    fn files(&self) -> BTreeMap<Role, Files> {
        let of = |role: Role| {
            let name = secret_of(role);
            let previous = self.text(&name, data::PREVIOUS_CERTIFICATE);
            let bundle = format!("{}{previous}", self.text(&name, data::CA_CERTIFICATE));
            (role, Files { bundle, leaf: self.text(&name, data::CERTIFICATE) })
        };
        Role::ALL.into_iter().map(of).collect()
    }
}

fn secret_of(role: Role) -> String {
    super::secret_of(&ClusterNames::new("llama"), role)
}

#[derive(Clone, PartialEq)]
struct Files {
    bundle: String,
    leaf: String,
}

/// One who trusts `bundle` takes `leaf` for `role` at `now`, at either end of a stream.
fn verified(bundle: &str, leaf: &str, role: Role, now: i64) -> Result<(), rustls::Error> {
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

/// Every leaf of one moment against every bundle of another.
fn all_verified(leaves: &BTreeMap<Role, Files>, bundles: &BTreeMap<Role, Files>, now: i64) {
    for (role, files) in leaves {
        for other in bundles.values() {
            let verdict = verified(&other.bundle, &files.leaf, *role, now);
            assert!(verdict.is_ok(), "{role:?} at day {}: {verdict:?}", (now - START) / DAY);
        }
    }
}

/// Pods that are one step behind, or ahead, of each other understand each other all the way.
fn rotated(step: i64) {
    let mut held = Held::new(START);
    let mut before = held.files();
    let (mut authorities, mut most) = (Vec::from([held.text("llama-ca", data::CA_CERTIFICATE)]), 1);
    let mut now = START;
    while now < START + 3 * 365 * DAY {
        now += step;
        held.look(now);
        let files = held.files();
        if files != before || (now - START) / step % 16 == 0 {
            all_verified(&files, &files, now);
            all_verified(&before, &files, now);
            all_verified(&files, &before, now);
        }
        let newest = held.text("llama-ca", data::CA_CERTIFICATE);
        if authorities.last() != Some(&newest) {
            authorities.push(newest);
        }
        most = most.max(files[&Role::Head].bundle.matches("BEGIN CERTIFICATE").count());
        before = files;
    }
    // A new CA each two thirds of a year, and two at a time at most.
    assert_eq!((authorities.len(), most), (5, 2));
    let first = verified(&authorities[0], &before[&Role::Head].leaf, Role::Head, now);
    assert!(first.is_err(), "the first CA signs no more");
    assert_eq!(before[&Role::Head].bundle, *authorities.last().unwrap(), "and is no longer trusted");
}

#[test]
fn three_years_in_steps_of_less_than_a_spread() {
    rotated(23 * HOUR);
}

#[test]
fn three_years_in_steps_of_weeks() {
    rotated(7 * DAY);
}

/// Looking when told to is enough: nothing is done before, something each time, and not often.
#[test]
fn three_years_by_looking_when_told() {
    let mut held = Held::default();
    let (mut now, mut looks) = (START, 0);
    while now < START + 3 * 365 * DAY {
        let (decision, written) = held.look(now);
        assert!(!written.is_empty(), "day {}", (now - START) / DAY);
        let next = decision.look_again.as_second();
        assert!(next > now);
        assert_eq!(held.look(next - 1).1, Vec::<String>::new());
        all_verified(&held.files(), &held.files(), next - 1);
        (now, looks) = (next, looks + 1);
    }
    assert!(looks < 3 * 365 / 10, "{looks}");
}

#[test]
fn nothing_is_written_twice() {
    let mut held = Held::default();
    let (_, first) = held.look(START);
    assert_eq!(first, ["llama-ca", "llama-head-tls", "llama-node-tls"]);
    assert!(held.look(START).1.is_empty());
    assert!(held.look(START + 19 * DAY).1.is_empty());
}

#[test]
fn secrets_are_as_kubernetes_has_them() {
    let held = Held::new(START);
    for secret in &held.secrets {
        let name = secret.metadata.name.as_deref().unwrap();
        let kind = if name.ends_with("-tls") { "kubernetes.io/tls" } else { "Opaque" };
        assert_eq!(secret.type_.as_deref(), Some(kind), "{name}");
        assert_eq!(secret.metadata.namespace.as_deref(), Some("ml"));
        assert_eq!(secret.metadata.owner_references.as_ref().unwrap()[0].uid, "6d1e");
        if name.ends_with("-tls") {
            let keys: Vec<_> = secret.data.as_ref().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, ["ca.crt", "group.key", "tls.crt", "tls.key"], "the CA's key is in no pod");
        }
        assert_eq!(key_in(secret), key_in(&held.secrets[0]), "{name}");
    }
    assert_eq!(key_in(&held.secrets[0]).len(), 32);
    assert_ne!(key_in(&held.secrets[0]), key_in(&Held::new(START).secrets[0]), "keys are drawn");
}

/// Each way in which one Secret can be wrong, and which are written because of it.
#[test]
fn what_is_wrong_is_made_anew() {
    type Harm = fn(&mut Held);
    let everything = ["llama-ca", "llama-head-tls", "llama-node-tls"];
    let node = ["llama-node-tls"];
    let cases: [(&str, Harm, &[&str]); 18] = [
        ("leaf gone", |held| held.secrets.retain(|one| one.metadata.name.as_deref() != Some("llama-node-tls")), &node),
        ("leaf garbage", |held| held.set("llama-node-tls", "tls.crt", "-----BEGIN CERTIFICATE-----\nAA\n"), &node),
        (
            "leaf no text",
            |held| held.secret("llama-node-tls").data.as_mut().unwrap().get_mut("tls.crt").unwrap().0 = vec![255],
            &node,
        ),
        ("leaf without data", |held| held.secret("llama-node-tls").data = None, &node),
        ("another's key", |held| held.set("llama-node-tls", "tls.key", &held.text("llama-head-tls", "tls.key")), &node),
        (
            "another's name",
            |held| held.secret("llama-node-tls").data = held.clone().secret("llama-head-tls").data.clone(),
            &node,
        ),
        (
            "another CA's",
            |held| held.secret("llama-node-tls").data = Held::new(START).secret("llama-node-tls").data.clone(),
            &node,
        ),
        (
            "a second certificate, and not whole",
            |held| held.set("llama-node-tls", "tls.crt", &(held.text("llama-node-tls", "tls.crt") + TORN)),
            &node,
        ),
        (
            "a second CA",
            |held| {
                held.set(
                    "llama-ca",
                    "ca.crt",
                    &(held.text("llama-ca", "ca.crt") + &Held::new(START).text("llama-ca", "ca.crt")),
                )
            },
            &everything,
        ),
        ("CA damaged", |held| held.set("llama-ca", "ca.crt", &damaged(&held.text("llama-ca", "ca.crt"))), &everything),
        ("bundle changed", |held| held.set("llama-node-tls", "ca.crt", "x"), &node),
        ("not owned", |held| held.secret("llama-node-tls").metadata.owner_references = None, &node),
        ("not labelled", |held| held.secret("llama-node-tls").metadata.labels = None, &node),
        ("key too short", |held| held.set("llama-node-tls", "group.key", "short"), &node),
        ("key too long", |held| held.set("llama-ca", "group.key", &"x".repeat(5000)), &["llama-ca"]),
        ("no key but white space", |held| held.set("llama-ca", "group.key", &" ".repeat(32)), &["llama-ca"]),
        ("CA gone", |held| held.secrets.retain(|one| one.metadata.name.as_deref() != Some("llama-ca")), &everything),
        (
            "CA with a leaf's key",
            |held| held.set("llama-ca", "ca.key", &held.text("llama-head-tls", "tls.key")),
            &everything,
        ),
    ];
    for (what, harm, expected) in cases {
        let mut held = Held::new(START);
        harm(&mut held);
        assert_eq!(held.look(START + DAY).1, expected, "{what}");
        assert!(held.look(START + DAY).1.is_empty(), "{what}: set right at once");
        all_verified(&held.files(), &held.files(), START + DAY);
    }
}

/// A CA's own leaf is no CA.
#[test]
fn a_leaf_is_taken_for_no_authority() {
    let mut held = Held::new(START);
    for (to, from) in [("ca.crt", "tls.crt"), ("ca.key", "tls.key")] {
        held.set("llama-ca", to, &held.text("llama-head-tls", from));
    }
    assert_eq!(held.look(START).1.len(), 3);
}

/// A new CA is known everywhere before it signs, however late the operator looks.
#[test]
fn a_new_authority_waits_until_it_is_known() {
    let mut held = Held::new(START);
    let due = START + CA_LIFE.as_secs() as i64 / 3 * 2;
    held.look(due - DAY);
    let old = held.files();
    let (_, written) = held.look(due);
    assert_eq!(written, ["llama-ca", "llama-head-tls", "llama-node-tls"]);
    let both = held.files();
    assert!(Role::ALL.iter().all(|role| both[role].leaf == old[role].leaf));
    assert!(held.look(due + SPREAD.as_secs() as i64 - 1).1.is_empty());

    // One Secret did not get the news: the old CA goes on signing until it has.
    let mut late = held.clone();
    late.set("llama-node-tls", "ca.crt", &old[&Role::Node].bundle);
    assert_eq!(late.look(due + 2 * DAY).1, ["llama-node-tls"]);
    assert_eq!(late.files()[&Role::Head].leaf, old[&Role::Head].leaf);

    assert_eq!(held.look(due + 2 * DAY).1.len(), 3, "now the new one signs");
    assert_eq!(held.files()[&Role::Head].bundle, both[&Role::Head].bundle);
    assert_eq!(held.look(due + 3 * DAY).1.len(), 3, "and the old one goes");
    assert!(held.look(due + 3 * DAY).1.is_empty());
}

/// An operator that slept beyond a certificate's end, and a clock that was ahead.
#[test]
fn what_is_over_or_not_yet_is_made_anew() {
    for now in [START + LEAF_LIFE.as_secs() as i64 + 1, START + 2 * 365 * DAY, START - DAY] {
        let mut held = Held::new(START);
        let key = key_in(&held.secrets[0]);
        assert_eq!(held.look(now).1.len(), 3);
        all_verified(&held.files(), &held.files(), now);
        assert!(held.secrets.iter().all(|secret| key_in(secret) == key), "the groups' key is made once");
    }
}

/// The groups' key outlives the Secret that it was drawn for.
#[test]
fn a_lost_authority_takes_no_key_with_it() {
    let mut held = Held::new(START);
    let key = key_in(&held.secrets[0]);
    held.secrets.remove(0);
    held.look(START + DAY);
    assert!(held.secrets.iter().all(|secret| key_in(secret) == key));
}

/// The begin of a certificate.
const TORN: &str = "-----BEGIN CERTIFICATE-----\nMIIB";

/// A certificate whose last byte, one of its signature, is another.
fn damaged(pem: &str) -> String {
    let mut der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    *der.last_mut().unwrap() ^= 1;
    let base64 = serde_json::to_value(k8s_openapi::ByteString(der)).unwrap();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64.as_str().unwrap())
}

fn key_in(secret: &Secret) -> Vec<u8> {
    secret.data.as_ref().unwrap()[data::GROUP_KEY].0.clone()
}
