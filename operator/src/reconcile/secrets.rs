//! The certificates and the group's key as Secrets: looked at when one of them changed or is due, and otherwise not read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, PostParams};
use kube::{Api, ResourceExt as _};

use super::apply::is_foreign;
use super::validate::Validated;
use super::{Context, ReconcileError, now};
use crate::certificates::{self, Role, data};
use crate::heads::{Credentials, DialError};
use crate::objects::hash::hash_content;
use crate::objects::{FIELD_MANAGER, annotation};
use crate::plan::ClusterNames;

/// Longest time between two looks, whatever the certificates say.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The watch shows what was written after at most this long; what it shows instead is looked at then.
const WATCH_LAG: Duration = Duration::from_secs(10);

/// What is known of each cluster's Secrets.
#[derive(Default)]
pub struct Certificates(Mutex<HashMap<(String, String), Known>>);

struct Known {
    /// The Secrets as the watch shows them, once it has caught up with what was written.
    traces: Vec<Option<String>>,
    /// As it showed them before that, and when that was; `None` once it has caught up.
    before: Option<(Instant, Vec<Option<String>>)>,
    look_again: Timestamp,
    credentials: Option<Credentials>,
}

impl Known {
    /// How long this holds, where `traces` show nothing else.
    fn holds(&mut self, traces: &[Option<String>]) -> Option<Duration> {
        let longest = if self.traces == traces {
            self.before = None;
            LONGEST
        } else {
            let (at, before) = self.before.as_ref()?;
            let mut each = traces.iter().zip(before.iter().zip(&self.traces));
            if !each.all(|(now, (before, after))| now == before || now == after) {
                return None;
            }
            WATCH_LAG.checked_sub(at.elapsed())?
        };
        Some(longest.min(due(self.look_again))).filter(|left| !left.is_zero())
    }
}

fn due(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now())).unwrap_or_default().min(LONGEST)
}

/// Why the operator has no certificate for a cluster's heads.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("read Secret {name}: {source}")]
    Read { name: String, source: kube::Error },
    #[error(transparent)]
    Use(#[from] DialError),
}

impl Certificates {
    /// The operator's credentials for the heads of `cluster`.
    ///
    /// # Errors
    /// The Secret cannot be read or used.
    pub async fn credentials(&self, context: &Context, cluster: &Validated) -> Result<Credentials, CredentialsError> {
        let key = key_of(cluster);
        if let Some(known) = self.lock().get(&key).and_then(|known| known.credentials.clone()) {
            return Ok(known);
        }
        let name = ClusterNames::new(&cluster.identity.name).ca_secret();
        let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.identity.namespace);
        context.metrics.request("get");
        let secret = api.get(&name).await.map_err(|source| CredentialsError::Read { name, source })?;
        let credentials = credentials_in(&secret)?;
        if let Some(known) = self.lock().get_mut(&key) {
            known.credentials = Some(credentials.clone());
        }
        Ok(credentials)
    }

    /// Drops the credentials of a cluster whose heads are not dialled; nothing else.
    pub fn rest(&self, cluster: &Validated) {
        if let Some(known) = self.lock().get_mut(&key_of(cluster)) {
            known.credentials = None;
        }
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn credentials_in(secret: &Secret) -> Result<Credentials, DialError> {
    let held = secret.data.as_ref();
    let bytes = |key: &str| held.and_then(|held| held.get(key)).map_or(&[][..], |bytes| bytes.0.as_slice());
    let trusted = [bytes(data::CA_CERTIFICATE), bytes(data::PREVIOUS_CERTIFICATE)].concat();
    Credentials::new(&trusted, bytes(data::CERTIFICATE), bytes(data::KEY))
}

/// Makes what is missing, renews what is due. Returns when to look again.
///
/// # Errors
/// The API server refuses, or another writer was faster: the next try sees its Secrets.
pub async fn bring_about(context: &Context, cluster: &Validated) -> Result<Duration, ReconcileError> {
    let key = key_of(cluster);
    let before = traces(context, cluster);
    let (new, holds) = match context.certificates.lock().get_mut(&key) {
        Some(known) => (false, known.holds(&before)),
        None => (true, None),
    };
    if let Some(left) = holds {
        return Ok(left);
    }
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.identity.namespace);
    // A new cluster of which the watch shows no Secret: none is read. One that is there all the same is not overwritten,
    // for then its creation fails, and the next try reads.
    let blind = new && before.iter().all(Option::is_none);
    let existing = if blind { Vec::new() } else { read(context, &api, cluster).await? };
    let decision = certificates::decide(&cluster.identity, &existing, now())?;
    let known = Known { traces: before.clone(), before: None, look_again: now(), credentials: None };
    context.certificates.lock().insert(key.clone(), known);
    let own = ClusterNames::new(&cluster.identity.name).ca_secret();
    let own = decision.write.iter().chain(&existing).find(|secret| secret.metadata.name.as_deref() == Some(&own));
    let credentials = own.and_then(|secret| credentials_in(secret).ok());
    let mut after = before.clone();
    for secret in decision.write {
        let name = secret.name_any();
        let trace = write(context, &api, secret).await?;
        for (_, shown) in names(cluster).zip(&mut after).filter(|(one, _)| *one == name) {
            shown.clone_from(&trace);
        }
    }
    let written = after != before;
    let before = written.then(|| (Instant::now(), before));
    let look_again = decision.look_again;
    context.certificates.lock().insert(key, Known { traces: after, before, look_again, credentials });
    Ok(if written { due(look_again).min(WATCH_LAG) } else { due(look_again) })
}

/// The cluster's Secrets, by name: one that lost its labels is ours all the same.
async fn read(context: &Context, api: &Api<Secret>, cluster: &Validated) -> Result<Vec<Secret>, ReconcileError> {
    let mut existing = Vec::new();
    for name in names(cluster) {
        context.metrics.request("get");
        let Some(found) = api.get_opt(&name).await.map_err(ReconcileError::ReadSecrets)? else { continue };
        if is_foreign(&found.metadata, &cluster.identity.owner.uid) {
            return Err(ReconcileError::Taken(format!("Secret {name}")));
        }
        existing.push(found);
    }
    Ok(existing)
}

fn names(cluster: &Validated) -> impl Iterator<Item = String> {
    let names = ClusterNames::new(&cluster.identity.name);
    Role::ALL.into_iter().map(move |role| certificates::secret_of(&names, role))
}

/// Writes `secret`; returns its trace, as the watch will show it.
async fn write(context: &Context, api: &Api<Secret>, secret: Secret) -> Result<Option<String>, ReconcileError> {
    let name = secret.name_any();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    let written = if secret.resource_version().is_some() {
        context.metrics.request("put");
        api.replace(&name, &params, &secret).await
    } else {
        context.metrics.request("post");
        api.create(&params, &secret).await
    };
    let written = written.map_err(|source| ReconcileError::WriteSecret { name, source })?;
    let written = serde_json::to_value(&written).and_then(serde_json::from_value::<DynamicObject>);
    Ok(written.ok().map(|written| hash_content(&written)))
}

fn traces(context: &Context, cluster: &Validated) -> Vec<Option<String>> {
    names(cluster)
        .map(|name| context.trace("Secret", &cluster.identity.namespace, &name)?.annotations?.remove(annotation::SEEN))
        .collect()
}

fn key_of(cluster: &Validated) -> (String, String) {
    (cluster.identity.namespace.clone(), cluster.identity.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(texts: [&str; 2]) -> Vec<Option<String>> {
        texts.map(|text| (!text.is_empty()).then(|| text.to_owned())).into()
    }

    #[test]
    fn what_was_written_is_not_read_again_unless_the_watch_shows_something_else() {
        let later = Timestamp::from_second(now().as_second() + 3600).unwrap();
        let before = Some((Instant::now(), traces(["", ""])));
        let mut known = Known { traces: traces(["a", "b"]), before, look_again: later, credentials: None };
        assert!(known.holds(&traces(["", ""])).unwrap() <= WATCH_LAG, "the watch has told nothing yet");
        assert!(known.holds(&traces(["a", ""])).is_some(), "it has told a part");
        assert_eq!(known.holds(&traces(["x", "b"])), None, "somebody else wrote");
        assert!(known.holds(&traces(["a", "b"])).unwrap() > WATCH_LAG);
        assert_eq!(known.holds(&traces(["a", ""])), None, "one was deleted");
        known.look_again = now();
        assert_eq!(known.holds(&traces(["a", "b"])), None, "a certificate is due");
    }

    #[test]
    fn a_watch_that_never_shows_what_was_written_is_not_believed_for_long() {
        let later = Timestamp::from_second(now().as_second() + 3600).unwrap();
        let long_ago = Instant::now().checked_sub(2 * WATCH_LAG).unwrap();
        let before = Some((long_ago, traces(["", ""])));
        let mut known = Known { traces: traces(["a", "b"]), before, look_again: later, credentials: None };
        assert_eq!(known.holds(&traces(["a", ""])), None);
    }
}
