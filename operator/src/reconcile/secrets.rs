//! The certificates and the group's key as Secrets: looked at when one of them changed or is due, and otherwise not read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, ResourceExt as _};

use super::apply::is_foreign;
use super::build::labels::FIELD_MANAGER;
use super::validate::Validated;
use super::{Context, ReconcileError, now};
use crate::certificates::{self, Role, data};
use crate::heads::{Credentials, DialError};
use crate::observe::SEEN;
use crate::plan::ClusterNames;

/// Longest time between two looks, whatever the certificates say.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What is known of each cluster's Secrets.
#[derive(Default)]
pub struct Certificates(Mutex<HashMap<(String, String), Known>>);

struct Known {
    /// The Secrets as the watch showed them when they were looked at.
    traces: Vec<Option<String>>,
    look_again: Timestamp,
    credentials: Option<Credentials>,
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
        let name = ClusterNames::new(&cluster.name).tls_secret(Role::Operator.as_str());
        let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.namespace);
        context.metrics.request("get");
        let secret = api.get(&name).await.map_err(|source| CredentialsError::Read { name, source })?;
        let held = secret.data.unwrap_or_default();
        let bytes = |key: &str| held.get(key).map_or(&[][..], |bytes| bytes.0.as_slice());
        let credentials = Credentials::new(bytes(data::CA_CERTIFICATE), bytes(data::CERTIFICATE), bytes(data::KEY))?;
        if let Some(known) = self.lock().get_mut(&key) {
            known.credentials = Some(credentials.clone());
        }
        Ok(credentials)
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes what is missing, renews what is due. Returns when to look again.
///
/// # Errors
/// The API server refuses, or another writer was faster: the next try sees its Secrets.
pub async fn bring_about(context: &Context, cluster: &Validated) -> Result<Duration, ReconcileError> {
    let key = key_of(cluster);
    let traces = traces(context, cluster);
    let due = |at: Timestamp| Duration::try_from(at.duration_since(now())).unwrap_or_default().min(LONGEST);
    let looked = context.certificates.lock().get(&key).map(|known| (known.traces == traces, known.look_again));
    if let Some((true, look_again)) = looked
        && !due(look_again).is_zero()
    {
        return Ok(due(look_again));
    }
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.namespace);
    let existing = read(context, &api, cluster).await?;
    let decision = certificates::decide(cluster, &existing, now())?;
    for secret in decision.write {
        write(context, &api, secret).await?;
    }
    // Right after a write the watch shows the old ones: what it shows next is looked at once more.
    let known = Known { traces, look_again: decision.look_again, credentials: None };
    context.certificates.lock().insert(key, known);
    Ok(due(decision.look_again))
}

/// The cluster's Secrets, by name: one that lost its labels is ours all the same.
async fn read(context: &Context, api: &Api<Secret>, cluster: &Validated) -> Result<Vec<Secret>, ReconcileError> {
    let mut existing = Vec::new();
    for name in names(cluster) {
        context.metrics.request("get");
        let Some(found) = api.get_opt(&name).await.map_err(ReconcileError::ReadSecrets)? else { continue };
        if is_foreign(&found.metadata, &cluster.owner.uid) {
            return Err(ReconcileError::Taken { kind: "Secret".into(), name });
        }
        existing.push(found);
    }
    Ok(existing)
}

fn names(cluster: &Validated) -> impl Iterator<Item = String> {
    let names = ClusterNames::new(&cluster.name);
    let leaves = Role::ALL.map(|role| names.tls_secret(role.as_str()));
    leaves.into_iter().chain([names.ca_secret(), names.key_secret()])
}

async fn write(context: &Context, api: &Api<Secret>, secret: Secret) -> Result<(), ReconcileError> {
    let name = secret.name_any();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    let written = if secret.resource_version().is_some() {
        context.metrics.request("put");
        api.replace(&name, &params, &secret).await
    } else {
        context.metrics.request("post");
        api.create(&params, &secret).await
    };
    written.map(drop).map_err(|source| ReconcileError::WriteSecret { name, source })
}

fn traces(context: &Context, cluster: &Validated) -> Vec<Option<String>> {
    names(cluster).map(|name| context.trace("Secret", &cluster.namespace, &name)?.annotations?.remove(SEEN)).collect()
}

fn key_of(cluster: &Validated) -> (String, String) {
    (cluster.namespace.clone(), cluster.name.clone())
}
