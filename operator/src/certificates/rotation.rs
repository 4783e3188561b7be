//! The decision which certificates to make, to keep and to drop.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use lockstep_proto::names::group_key::{MAX_BYTES, MIN_BYTES};
use rustls::crypto::ring::default_provider;

use super::authority::Authority;
use super::leaf::Leaf;
use super::secrets::{OPAQUE, SecretData, TLS, changed_secret, find_secret, secret_bytes, secret_data, secret_text};
use super::{CertificateError, CertificateRole, SecretsDecision, data, secret_name};
use crate::objects::ClusterIdentity;
use crate::plan::ClusterNames;

/// Bytes of a new group key.
const KEY_BYTES: usize = 32;

/// Minimum seconds until the next look.
const MIN_SECONDS: i64 = 60;

/// CAs that pods trust.
struct Trust {
    newest: Authority,
    previous: Option<Authority>,
}

/// Decides which Secrets of `cluster` to write, given those that exist. A certificate or key that is missing, cannot be
/// parsed or belongs to another role is made anew. The same holds for the CA: deleting its Secret ends the trust in every
/// leaf that the CA signed.
///
/// # Errors
/// No key could be drawn, or no certificate made.
pub fn decide_secrets(
    cluster: &ClusterIdentity,
    existing: &[Secret],
    now: Timestamp,
) -> Result<SecretsDecision, CertificateError> {
    let names = ClusterNames::new(&cluster.name);
    let leaf_secret = |role: CertificateRole| find_secret(existing, &secret_name(&names, role));
    let mut trust = Trust::from_secret(cluster, leaf_secret(CertificateRole::Operator), now)?;
    let known = CertificateRole::ALL
        .into_iter()
        .filter_map(leaf_secret)
        .all(|secret| secret_text(Some(secret), data::CA_CERTIFICATE).contains(trust.newest.certificate.as_str()));
    let leaves = CertificateRole::ALL.map(|role| trust.renew_leaf(leaf_secret(role), role, known, now));
    let [operator, head, node] = leaves;
    let leaves = [operator?, head?, node?];
    let mut due: Vec<i64> = leaves.iter().map(|leaf| leaf.lifetime.renewed_at()).collect();
    due.extend(trust.forget_previous(&leaves, now));
    due.push(trust.newest.lifetime.renewed_at());

    let key = find_or_draw_group_key(CertificateRole::ALL.into_iter().filter_map(leaf_secret))?;
    let mut write = Vec::new();
    for (role, leaf) in CertificateRole::ALL.into_iter().zip(&leaves) {
        let (kind, mut data) = match role {
            CertificateRole::Operator => (OPAQUE, trust.secret_data()),
            CertificateRole::Head | CertificateRole::Node => {
                (TLS, secret_data([(data::CA_CERTIFICATE, &trust.bundle())]))
            }
        };
        data.extend(secret_data([(data::CERTIFICATE, &leaf.certificate), (data::KEY, &leaf.key)]));
        data.insert(data::GROUP_KEY.into(), key.clone());
        write.extend(changed_secret(cluster, secret_name(&names, role), kind, data, leaf_secret(role)));
    }
    let soonest = due.into_iter().min().unwrap_or_default().max(now.as_second() + MIN_SECONDS);
    Ok(SecretsDecision { write, look_again: Timestamp::from_second(soonest).unwrap_or(now) })
}

impl Trust {
    /// Parses the CAs of `secret`. Makes a new CA if the newest is not fresh or there is none.
    fn from_secret(
        cluster: &ClusterIdentity,
        secret: Option<&Secret>,
        now: Timestamp,
    ) -> Result<Self, CertificateError> {
        let parse = |certificate, key| {
            let parsed = Authority::parse(secret_text(secret, certificate), secret_text(secret, key));
            parsed.filter(|authority| authority.lifetime.is_valid(now))
        };
        let newest = parse(data::CA_CERTIFICATE, data::CA_KEY);
        let previous = parse(data::PREVIOUS_CERTIFICATE, data::PREVIOUS_KEY);
        match newest {
            Some(newest) if newest.lifetime.is_fresh(now) => Ok(Self { newest, previous }),
            old => Ok(Self { newest: Authority::new(&cluster.name, now)?, previous: old }),
        }
    }

    /// Returns the CA that signs leaves: the newest one, once every pod has had the time to learn of it. `known` is true if
    /// every leaf's Secret has the newest CA.
    fn signer(&self, known: bool, now: Timestamp) -> &Authority {
        match &self.previous {
            Some(previous) if !known || !self.newest.lifetime.is_spread(now) => previous,
            _ => &self.newest,
        }
    }

    /// Returns the leaf of `secret`, or a new leaf if that one is not fresh or the signing CA did not sign it.
    fn renew_leaf(
        &self,
        secret: Option<&Secret>,
        role: CertificateRole,
        known: bool,
        now: Timestamp,
    ) -> Result<Leaf, CertificateError> {
        let signer = self.signer(known, now);
        let parsed = Leaf::parse(secret_text(secret, data::CERTIFICATE), secret_text(secret, data::KEY), role, signer);
        match parsed.filter(|leaf| leaf.lifetime.is_fresh(now)) {
            Some(leaf) => Ok(leaf),
            None => Leaf::new(signer, role, now),
        }
    }

    /// Forgets the previous CA once every pod has had the time to get a leaf that the newest CA signed. Returns the time of
    /// the next look if that is still to come.
    fn forget_previous(&mut self, leaves: &[Leaf], now: Timestamp) -> Option<i64> {
        let previous = self.previous.as_ref()?;
        let by_newest = leaves.iter().all(|leaf| {
            super::authority::inspect_certificate(&leaf.certificate, |leaf| self.newest.has_signed(leaf).then_some(()))
                .is_some()
        });
        if !by_newest {
            return Some(self.newest.lifetime.spread_at().min(previous.lifetime.not_after));
        }
        if leaves.iter().all(|leaf| leaf.lifetime.is_spread(now)) {
            self.previous = None;
            return None;
        }
        leaves.iter().map(|leaf| leaf.lifetime.spread_at()).max()
    }

    /// Returns every CA that pods trust, as PEM.
    fn bundle(&self) -> String {
        let previous = self.previous.as_ref().map_or("", |previous| &previous.certificate);
        format!("{}{previous}", self.newest.certificate)
    }

    fn secret_data(&self) -> SecretData {
        let (certificate, key) = match &self.previous {
            Some(previous) => (previous.certificate.as_str(), previous.key.as_str()),
            None => ("", ""),
        };
        secret_data([
            (data::CA_CERTIFICATE, &self.newest.certificate),
            (data::CA_KEY, &self.newest.key),
            (data::PREVIOUS_CERTIFICATE, certificate),
            (data::PREVIOUS_KEY, key),
        ])
    }
}

/// Returns the first key in the Secrets that agents accept, or a new one. Every pod must have the same key, so it is made
/// only once.
fn find_or_draw_group_key<'a>(mut secrets: impl Iterator<Item = &'a Secret>) -> Result<ByteString, CertificateError> {
    let held = secrets.find_map(|secret| {
        let key = secret_bytes(Some(secret), data::GROUP_KEY);
        // White space at the end belongs to the file, not to the key.
        let accepted = key.len() <= MAX_BYTES && key.trim_ascii_end().len() >= MIN_BYTES;
        accepted.then(|| key.to_vec())
    });
    if let Some(held) = held {
        return Ok(ByteString(held));
    }
    let mut key = vec![0; KEY_BYTES];
    default_provider().secure_random.fill(&mut key).map_err(|_| CertificateError::Random)?;
    Ok(ByteString(key))
}
