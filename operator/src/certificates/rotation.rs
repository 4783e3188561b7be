//! What to make, keep and drop.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use lockstep_proto::names::group_key::{MAX_BYTES, MIN_BYTES};
use rustls::crypto::ring::default_provider;

use super::authority::Authority;
use super::leaf::Leaf;
use super::secrets::{self, Data, OPAQUE, TLS};
use super::{CertificateError, Decision, Role, data, secret_of};
use crate::objects::ClusterIdentity;
use crate::plan::ClusterNames;

/// Bytes of the groups' key that is made here.
const KEY_BYTES: usize = 32;

/// Seconds until the next look where a step waits for what was just written.
const SOON: i64 = 60;

/// The CAs that are trusted.
struct Trust {
    newest: Authority,
    previous: Option<Authority>,
}

/// Judges the Secrets of `cluster` among `existing`. What is missing, cannot be read, or is not what its name says is
/// made anew; the CA's Secret too, so that deleting it ends the trust in all that it signed.
///
/// # Errors
/// No key could be drawn or certificate be made.
pub fn decide(cluster: &ClusterIdentity, existing: &[Secret], now: Timestamp) -> Result<Decision, CertificateError> {
    let names = ClusterNames::new(&cluster.name);
    let leaf_secret = |role: Role| secrets::find(existing, &secret_of(&names, role));
    let mut trust = Trust::now(cluster, leaf_secret(Role::Operator), now)?;
    let known = Role::ALL
        .into_iter()
        .filter_map(leaf_secret)
        .all(|secret| secrets::text(Some(secret), data::CA_CERTIFICATE).contains(trust.newest.certificate.as_str()));
    let leaves = Role::ALL.map(|role| trust.leaf(leaf_secret(role), role, known, now));
    let [operator, head, node] = leaves;
    let leaves = [operator?, head?, node?];
    let mut due: Vec<i64> = leaves.iter().map(|leaf| leaf.life.renewed_at()).collect();
    due.extend(trust.forget(&leaves, now));
    due.push(trust.newest.life.renewed_at());

    let key = group_key(Role::ALL.into_iter().filter_map(leaf_secret))?;
    let mut write = Vec::new();
    for (role, leaf) in Role::ALL.into_iter().zip(&leaves) {
        let (kind, mut data) = match role {
            Role::Operator => (OPAQUE, trust.data()),
            Role::Head | Role::Node => (TLS, secrets::data([(data::CA_CERTIFICATE, &trust.bundle())])),
        };
        data.extend(secrets::data([(data::CERTIFICATE, &leaf.certificate), (data::KEY, &leaf.key)]));
        data.insert(data::GROUP_KEY.into(), key.clone());
        write.extend(secrets::changed(cluster, secret_of(&names, role), kind, data, leaf_secret(role)));
    }
    let soonest = due.into_iter().min().unwrap_or_default().max(now.as_second() + SOON);
    Ok(Decision { write, look_again: Timestamp::from_second(soonest).unwrap_or(now) })
}

impl Trust {
    /// The CAs of the Secret; a new one beside, or instead, where it is time.
    fn now(cluster: &ClusterIdentity, secret: Option<&Secret>, now: Timestamp) -> Result<Self, CertificateError> {
        let read = |certificate, key| {
            let read = Authority::read(secrets::text(secret, certificate), secrets::text(secret, key));
            read.filter(|authority| authority.life.valid(now))
        };
        let newest = read(data::CA_CERTIFICATE, data::CA_KEY);
        let previous = read(data::PREVIOUS_CERTIFICATE, data::PREVIOUS_KEY);
        match newest {
            Some(newest) if newest.life.fresh(now) => Ok(Self { newest, previous }),
            old => Ok(Self { newest: Authority::new(&cluster.name, now)?, previous: old }),
        }
    }

    /// Who signs: the newest, once every pod has had the time to learn of it. `known`: every leaf's Secret has it.
    fn signer(&self, known: bool, now: Timestamp) -> &Authority {
        match &self.previous {
            Some(previous) if !known || !self.newest.life.spread(now) => previous,
            _ => &self.newest,
        }
    }

    /// The leaf of `secret`, or a new one where that is not fresh or not of the one that signs.
    fn leaf(&self, secret: Option<&Secret>, role: Role, known: bool, now: Timestamp) -> Result<Leaf, CertificateError> {
        let signer = self.signer(known, now);
        let read = Leaf::read(secrets::text(secret, data::CERTIFICATE), secrets::text(secret, data::KEY), role, signer);
        match read.filter(|leaf| leaf.life.fresh(now)) {
            Some(leaf) => Ok(leaf),
            None => Leaf::new(signer, role, now),
        }
    }

    /// Forgets the previous CA once every pod has had the time to get a leaf of the newest; else says when to look
    /// again because of it.
    fn forget(&mut self, leaves: &[Leaf], now: Timestamp) -> Option<i64> {
        let previous = self.previous.as_ref()?;
        let by_newest = leaves.iter().all(|leaf| {
            super::authority::read_certificate(&leaf.certificate, |leaf| self.newest.signed(leaf).then_some(()))
                .is_some()
        });
        if !by_newest {
            return Some(self.newest.life.spread_at().min(previous.life.not_after));
        }
        if leaves.iter().all(|leaf| leaf.life.spread(now)) {
            self.previous = None;
            return None;
        }
        leaves.iter().map(|leaf| leaf.life.spread_at()).max()
    }

    /// Every CA that pods trust.
    fn bundle(&self) -> String {
        let previous = self.previous.as_ref().map_or("", |previous| &previous.certificate);
        format!("{}{previous}", self.newest.certificate)
    }

    fn data(&self) -> Data {
        let (certificate, key) = match &self.previous {
            Some(previous) => (previous.certificate.as_str(), previous.key.as_str()),
            None => ("", ""),
        };
        secrets::data([
            (data::CA_CERTIFICATE, &self.newest.certificate),
            (data::CA_KEY, &self.newest.key),
            (data::PREVIOUS_CERTIFICATE, certificate),
            (data::PREVIOUS_KEY, key),
        ])
    }
}

/// The first key in the Secrets that agents take, or a new one: it is made once, for every pod must have the same.
fn group_key<'a>(mut secrets: impl Iterator<Item = &'a Secret>) -> Result<ByteString, CertificateError> {
    let held = secrets.find_map(|secret| {
        let key = secrets::bytes(Some(secret), data::GROUP_KEY);
        // White space at the end is part of the file, and not of the key.
        let taken = key.len() <= MAX_BYTES && key.trim_ascii_end().len() >= MIN_BYTES;
        taken.then(|| key.to_vec())
    });
    if let Some(held) = held {
        return Ok(ByteString(held));
    }
    let mut key = vec![0; KEY_BYTES];
    default_provider().secure_random.fill(&mut key).map_err(|_| CertificateError::Random)?;
    Ok(ByteString(key))
}
