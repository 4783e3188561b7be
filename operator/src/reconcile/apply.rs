//! The fourth step: server-side apply of what was built, where it is not so already. An object whose trace in the watch
//! shows what was applied, and nothing changed since, costs no request.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt as _};

use super::build::Object;
use super::{Context, ReconcileError};
use crate::objects::hash::{hash_content, short_hash};
use crate::objects::{FIELD_MANAGER, LOCKSTEP, annotation, is_owned_by, label};

/// Every object is applied anew after about this long, whatever the watch says; spread by the objects' names.
const RESYNC: Duration = Duration::from_secs(10 * 3600);

/// What was seen of an object right before and after it was applied.
struct Applied {
    at: Instant,
    before: Option<String>,
    after: String,
}

/// What this process applied: by kind, namespace and name.
pub struct Ledger {
    began: Instant,
    entries: Mutex<HashMap<Key, Applied>>,
}

type Key = (String, String, String);

impl Default for Ledger {
    fn default() -> Self {
        Self { began: Instant::now(), entries: Mutex::default() }
    }
}

impl Ledger {
    /// Whether what the watch shows is what was applied. Without an entry (the operator was started again) the hash on
    /// the object is taken at its word at first, and each object applied once within an hour: what was changed while no
    /// operator ran is repaired, and a thousand clusters are not written at once. `spread`: up to an hour.
    fn settled(&self, key: &Key, seen: Option<&str>, spread: Duration) -> bool {
        let entries = self.entries();
        let Some(entry) = entries.get(key) else { return self.began.elapsed() < spread };
        if entry.at.elapsed() > RESYNC + spread {
            return false;
        }
        // As before: the watch has not told yet.
        seen == Some(&entry.after) || (seen.is_some() && seen == entry.before.as_deref())
    }

    fn insert(&self, key: Key, entry: Applied) {
        self.entries().insert(key, entry);
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Applied>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the objects called so or made for it: the cluster is gone.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        let of_cluster =
            |name: &str| name.strip_prefix(cluster).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        self.entries().retain(|(_, space, name), _| space != namespace || !of_cluster(name));
    }
}

/// Brings `object` about.
///
/// # Errors
/// The name is another owner's, or the API server refuses.
pub async fn apply(context: &Context, owner: &str, mut object: Object) -> Result<(), ReconcileError> {
    let namespace = object.object.namespace().unwrap_or_default();
    let (kind, name) = (object.resource.kind.clone(), object.object.name_any());
    let hash = short_hash(&serde_json::to_value(&object.object).unwrap_or_default());
    let trace = context.trace(&kind, &namespace, &name);
    let key = (kind.clone(), namespace.clone(), name.clone());
    if let Some(trace) = &trace {
        if is_foreign(trace, owner) {
            return Err(ReconcileError::Taken(format!("{kind} {name}")));
        }
        let annotations = trace.annotations.as_ref();
        let said = |key: &str| annotations.and_then(|all| all.get(key)).map(String::as_str);
        let spread = Duration::from_secs(u64::from(u16::from_str_radix(&hash[..4], 16).unwrap_or_default()) / 19);
        let going = trace.deletion_timestamp.is_some();
        if going
            || (said(annotation::APPLIED) == Some(&hash)
                && context.ledger.settled(&key, said(annotation::SEEN), spread))
        {
            return Ok(());
        }
    }
    object.object.annotations_mut().insert(annotation::APPLIED.into(), hash);
    let applied = match &trace {
        Some(_) => {
            patch(context, &object, true).await.map_err(|source| ReconcileError::Apply { kind, name, source })?
        }
        None => first(context, owner, &object).await?,
    };
    let before = trace.and_then(|trace| trace.annotations?.get(annotation::SEEN).cloned());
    let after = hash_content(&applied);
    context.ledger.insert(key, Applied { at: Instant::now(), before, after });
    Ok(())
}

/// Whether an object with a name that a cluster needs is not the cluster's: another's, or nobody's that we made.
#[must_use]
pub(super) fn is_foreign(metadata: &ObjectMeta, owner: &str) -> bool {
    let ours =
        || metadata.labels.as_ref().and_then(|labels| labels.get(label::MANAGED_BY)).is_some_and(|by| by == LOCKSTEP);
    !is_owned_by(metadata, owner).unwrap_or_else(ours)
}

/// Applies an object that no watch shows, for they show only what has our label: it is new, or another's, or ours
/// without its label. Fields that somebody else holds are not taken over before it is known whose the object is.
async fn first(context: &Context, owner: &str, object: &Object) -> Result<DynamicObject, ReconcileError> {
    let (kind, name) = (object.resource.kind.clone(), object.object.name_any());
    // A claim with the very same fields would be adopted without a conflict, and go with the cluster: data is lost.
    if kind != "PersistentVolumeClaim" {
        match patch(context, object, false).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return other.map_err(|source| ReconcileError::Apply { kind, name, source }),
        }
    }
    context.metrics.request("get");
    let found = api(context, object).get_metadata_opt(&name).await;
    let refused = |source| ReconcileError::Apply { kind: kind.clone(), name: name.clone(), source };
    if found.map_err(refused)?.is_some_and(|found| is_foreign(&found.metadata, owner)) {
        return Err(ReconcileError::Taken(format!("{kind} {name}")));
    }
    patch(context, object, true).await.map_err(refused)
}

fn api(context: &Context, object: &Object) -> Api<DynamicObject> {
    let namespace = object.object.namespace().unwrap_or_default();
    Api::namespaced_with(context.client.clone(), &namespace, &object.resource)
}

/// Server-side apply; `force`: of fields that others hold, too.
async fn patch(context: &Context, object: &Object, force: bool) -> kube::Result<DynamicObject> {
    let (api, name) = (api(context, object), object.object.name_any());
    let mut whole = object.object.clone();
    whole.types = Some(kube::api::TypeMeta {
        api_version: object.resource.api_version.clone(),
        kind: object.resource.kind.clone(),
    });
    let applied = async || {
        context.metrics.request("patch");
        let params = PatchParams { force, ..PatchParams::apply(FIELD_MANAGER) };
        api.patch(&name, &params, &Patch::Apply(&whole)).await
    };
    match applied().await {
        // Lists are merged by key, so that an entry whose key somebody changed (a Service's port) stands beside ours.
        // A merge patch replaces lists as a whole.
        Err(kube::Error::Api(status)) if status.code == 422 && force => {
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            context.metrics.request("patch");
            match api.patch(&name, &params, &Patch::Merge(&whole)).await {
                Ok(_) => applied().await,
                Err(_) => Err(kube::Error::Api(status)),
            }
        }
        other => other,
    }
}

/// Deletes an object of ours; one that is gone already is no error. `uid` where only that very object is meant.
///
/// # Errors
/// The API server refuses.
pub async fn delete<K>(context: &Context, namespace: &str, name: &str, how: Delete<'_>) -> Result<(), ReconcileError>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let mut params = DeleteParams::default();
    if how.force {
        params = params.grace_period(0);
    }
    if let Some(uid) = how.uid {
        params = params.preconditions(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
    }
    context.metrics.request("delete");
    match api.delete(name, &params).await {
        Ok(_) => Ok(()),
        // Gone, or another of that name: both mean that what was meant is gone.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(source) => Err(ReconcileError::Delete { kind: K::kind(&()).into_owned(), name: name.to_owned(), source }),
    }
}

/// Deletes the very object that was seen, and no later one of its name; `force`: without waiting for its node.
///
/// # Errors
/// The API server refuses.
pub async fn delete_seen<K>(context: &Context, namespace: &str, seen: &K, force: bool) -> Result<(), ReconcileError>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let uid = seen.uid();
    delete::<K>(context, namespace, &seen.name_any(), Delete { uid: uid.as_deref(), force }).await
}

/// Which object, and how hard.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delete<'a> {
    pub uid: Option<&'a str>,
    /// Without waiting for its node.
    pub force: bool,
}
