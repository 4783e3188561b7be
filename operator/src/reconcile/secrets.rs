//! Keeps the Secrets with a cluster's certificates and keys up to date. The operator reads the Secrets only if the
//! watch shows a change or if a certificate is due.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, PostParams};
use kube::{Api, ResourceExt as _};
use tokio::time::Instant;

use super::apply::is_foreign;
use super::validate::Validated;
use super::{Context, ReconcileError};
use crate::certificates::{self, CertificateRole, data};
use crate::clock::now;
use crate::heads::{Credentials, DialError};
use crate::objects::hash::hash_content;
use crate::objects::{FIELD_MANAGER, annotation};
use crate::plan::ClusterNames;

/// Longest time between two checks of a cluster's Secrets.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Time within which the watch shows a written Secret. If the watch shows other content afterwards, the operator reads
/// the Secrets.
const WATCH_LAG: Duration = Duration::from_secs(10);

/// State of each cluster's Secrets at the last check, by namespace and name of the cluster.
#[derive(Default)]
pub struct Certificates(Mutex<HashMap<(String, String), Checked>>);

/// State of one cluster's Secrets at the last check.
struct Checked {
    /// Content hashes of the Secrets after the last write. The watch shows these hashes once it has caught up.
    hashes: Vec<Option<String>>,
    /// Time of the last write, and the hashes before that write. `None` after the watch has caught up.
    before: Option<(Instant, Vec<Option<String>>)>,
    /// Time at which a certificate is due.
    due: Timestamp,
    /// Operator's credentials for the cluster's heads, kept while the operator dials them.
    credentials: Option<Credentials>,
}

impl Checked {
    /// Returns the time until the next check, or `None` if the Secrets must be read now. `shown` are the hashes that
    /// the watch shows.
    fn time_to_next_check(&mut self, shown: &[Option<String>]) -> Option<Duration> {
        let longest = if self.hashes == shown {
            self.before = None;
            MAX_INTERVAL
        } else {
            let (written, before) = self.before.as_ref()?;
            let mut each = shown.iter().zip(before.iter().zip(&self.hashes));
            if !each.all(|(now, (before, after))| now == before || now == after) {
                return None;
            }
            WATCH_LAG.checked_sub(written.elapsed())?
        };
        Some(longest.min(time_until(self.due))).filter(|time| !time.is_zero())
    }
}

fn time_until(due: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now())).unwrap_or_default().min(MAX_INTERVAL)
}

/// Reason why the operator has no credentials for a cluster's heads.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("cannot read Secret {name}: {source}")]
    Read { name: String, source: kube::Error },
    #[error(transparent)]
    Use(#[from] DialError),
}

impl Certificates {
    /// Returns the operator's credentials for the heads of `cluster`.
    ///
    /// # Errors
    /// Fails if the Secret cannot be read, or if its content is not usable.
    pub async fn credentials(&self, context: &Context, cluster: &Validated) -> Result<Credentials, CredentialsError> {
        let key = key_of(cluster);
        if let Some(credentials) = self.lock().get(&key).and_then(|checked| checked.credentials.clone()) {
            return Ok(credentials);
        }
        let name = ClusterNames::new(&cluster.identity.name).ca_secret();
        let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.identity.namespace);
        context.metrics.count_request("get");
        let secret = api.get(&name).await.map_err(|source| CredentialsError::Read { name, source })?;
        let credentials = parse_credentials(&secret)?;
        if let Some(checked) = self.lock().get_mut(&key) {
            checked.credentials = Some(credentials.clone());
        }
        Ok(credentials)
    }

    /// Drops the credentials for the heads of a cluster, which the operator does not dial now.
    pub fn drop_credentials(&self, cluster: &Validated) {
        if let Some(checked) = self.lock().get_mut(&key_of(cluster)) {
            checked.credentials = None;
        }
    }

    /// Drops the state of a deleted cluster.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Checked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse_credentials(secret: &Secret) -> Result<Credentials, DialError> {
    let content = secret.data.as_ref();
    let bytes = |key: &str| content.and_then(|content| content.get(key)).map_or(&[][..], |bytes| bytes.0.as_slice());
    let trusted = [bytes(data::CA_CERTIFICATE), bytes(data::PREVIOUS_CERTIFICATE)].concat();
    Credentials::new(&trusted, bytes(data::CERTIFICATE), bytes(data::KEY))
}

/// Makes missing Secrets and renews certificates that are due. Returns the time until the next check.
///
/// # Errors
/// Fails if the API server refuses a request, or if another writer was faster. The next reconciliation then sees the
/// Secrets of that writer.
pub async fn ensure_secrets(context: &Context, cluster: &Validated) -> Result<Duration, ReconcileError> {
    let key = key_of(cluster);
    let before = shown_hashes(context, cluster);
    let (new, next_check) = match context.certificates.lock().get_mut(&key) {
        Some(checked) => (false, checked.time_to_next_check(&before)),
        None => (true, None),
    };
    if let Some(time) = next_check {
        return Ok(time);
    }
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.identity.namespace);
    // The Secrets of a new cluster are not read if the watch shows none. If one exists all the same, its creation
    // fails, and the next reconciliation reads it.
    let assume_none = new && before.iter().all(Option::is_none);
    let existing = if assume_none { Vec::new() } else { read_secrets(context, &api, cluster).await? };
    let decision = certificates::decide_secrets(&cluster.identity, &existing, now())?;
    // If a write fails, this record makes the next reconciliation read the Secrets, because its check is due at once.
    let checked = Checked { hashes: before.clone(), before: None, due: now(), credentials: None };
    context.certificates.lock().insert(key.clone(), checked);
    let name = ClusterNames::new(&cluster.identity.name).ca_secret();
    let mut secrets = decision.write.iter().chain(&existing);
    let ca_secret = secrets.find(|secret| secret.metadata.name.as_deref() == Some(&name));
    let credentials = ca_secret.and_then(|secret| parse_credentials(secret).ok());
    let mut after = before.clone();
    for secret in decision.write {
        let name = secret.name_any();
        let written_hash = write_secret(context, &api, secret).await?;
        for (_, hash) in secret_names(cluster).zip(&mut after).filter(|(secret, _)| *secret == name) {
            hash.clone_from(&written_hash);
        }
    }
    let written = after != before;
    let before = written.then(|| (Instant::now(), before));
    let due = decision.look_again;
    context.certificates.lock().insert(key, Checked { hashes: after, before, due, credentials });
    Ok(if written { time_until(due).min(WATCH_LAG) } else { time_until(due) })
}

/// Reads the cluster's Secrets by name, so that a Secret that lost its labels is found too.
async fn read_secrets(
    context: &Context,
    api: &Api<Secret>,
    cluster: &Validated,
) -> Result<Vec<Secret>, ReconcileError> {
    let mut existing = Vec::new();
    for name in secret_names(cluster) {
        context.metrics.count_request("get");
        let Some(found) = api.get_opt(&name).await.map_err(ReconcileError::ReadSecrets)? else { continue };
        if is_foreign(&found.metadata, &cluster.identity.owner.uid) {
            return Err(ReconcileError::NameTaken(format!("Secret {name}")));
        }
        existing.push(found);
    }
    Ok(existing)
}

fn secret_names(cluster: &Validated) -> impl Iterator<Item = String> {
    let names = ClusterNames::new(&cluster.identity.name);
    CertificateRole::ALL.into_iter().map(move |role| certificates::secret_name(&names, role))
}

/// Writes `secret`. Returns the content hash that the watch will show.
async fn write_secret(context: &Context, api: &Api<Secret>, secret: Secret) -> Result<Option<String>, ReconcileError> {
    let name = secret.name_any();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    let written = if secret.resource_version().is_some() {
        context.metrics.count_request("put");
        api.replace(&name, &params, &secret).await
    } else {
        context.metrics.count_request("post");
        api.create(&params, &secret).await
    };
    let written = written.map_err(|source| ReconcileError::WriteSecret { name, source })?;
    let written = serde_json::to_value(&written).and_then(serde_json::from_value::<DynamicObject>);
    Ok(written.ok().map(|written| hash_content(&written)))
}

/// Returns the content hashes of the cluster's Secrets that the watch shows.
fn shown_hashes(context: &Context, cluster: &Validated) -> Vec<Option<String>> {
    secret_names(cluster)
        .map(|name| {
            context
                .observed_metadata("Secret", &cluster.identity.namespace, &name)?
                .annotations?
                .remove(annotation::SEEN)
        })
        .collect()
}

fn key_of(cluster: &Validated) -> (String, String) {
    (cluster.identity.namespace.clone(), cluster.identity.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(texts: [&str; 2]) -> Vec<Option<String>> {
        texts.map(|text| (!text.is_empty()).then(|| text.to_owned())).into()
    }

    #[test]
    fn written_secrets_are_read_again_only_if_the_watch_shows_other_content() {
        let later = Timestamp::from_second(now().as_second() + 3600).unwrap();
        let before = Some((Instant::now(), hashes(["", ""])));
        let mut checked = Checked { hashes: hashes(["a", "b"]), before, due: later, credentials: None };
        assert!(checked.time_to_next_check(&hashes(["", ""])).unwrap() <= WATCH_LAG, "the watch has shown nothing yet");
        assert!(checked.time_to_next_check(&hashes(["a", ""])).is_some(), "the watch has shown a part");
        assert_eq!(checked.time_to_next_check(&hashes(["x", "b"])), None, "somebody else has written");
        assert!(checked.time_to_next_check(&hashes(["a", "b"])).unwrap() > WATCH_LAG);
        assert_eq!(checked.time_to_next_check(&hashes(["a", ""])), None, "a Secret was deleted");
        checked.due = now();
        assert_eq!(checked.time_to_next_check(&hashes(["a", "b"])), None, "a certificate is due");
    }

    #[test]
    fn secrets_are_read_if_the_watch_does_not_catch_up_in_time() {
        let later = Timestamp::from_second(now().as_second() + 3600).unwrap();
        let long_ago = Instant::now().checked_sub(2 * WATCH_LAG).unwrap();
        let before = Some((long_ago, hashes(["", ""])));
        let mut checked = Checked { hashes: hashes(["a", "b"]), before, due: later, credentials: None };
        assert_eq!(checked.time_to_next_check(&hashes(["a", ""])), None);
    }
}
