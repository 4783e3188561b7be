//! The fourth step: server-side apply of the built objects. The operator sends no request for an object that, by the
//! watch, is unchanged since the operator applied it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt as _};
use tokio::time::Instant;

use super::build::Object;
use super::{Context, ReconcileError};
use crate::objects::hash::{hash_content, short_hash};
use crate::objects::{FIELD_MANAGER, LOCKSTEP, annotation, is_owned_by, label};

/// Time after which the operator applies each object again, even if the watch shows no change. Each object adds a time
/// of its own, up to an hour, so that the operator does not apply all objects at once.
const RESYNC: Duration = Duration::from_secs(10 * 3600);

/// Record of an applied object.
struct Applied {
    at: Instant,
    /// Resource version that the watch showed before.
    before: Option<String>,
    /// Hash of the content that the API server returned.
    after: String,
}

/// Records of the objects that this process applied, by kind, namespace and name.
pub struct Ledger {
    started: Instant,
    entries: Mutex<HashMap<Key, Applied>>,
}

type Key = (String, String, String);

impl Default for Ledger {
    fn default() -> Self {
        Self { started: Instant::now(), entries: Mutex::default() }
    }
}

impl Ledger {
    /// Returns true if the watch shows the applied content, so that the object need not be applied.
    ///
    /// After a start of the operator there is no record. Then the annotation with the hash of the applied object
    /// counts, until `spread` (up to an hour) has passed since the start. So the operator applies each object once
    /// within an hour, and not all at once. This repairs changes that somebody made while no operator ran. Without
    /// `spread`, the operator applies the object now.
    fn is_settled(&self, key: &Key, seen: &ObjectMeta, spread: Duration) -> bool {
        let entries = self.entries();
        let Some(entry) = entries.get(key) else { return self.started.elapsed() < spread };
        if entry.at.elapsed() > RESYNC + spread {
            return false;
        }
        // With the version from before, the watch has not shown the applied content yet. The content from before is no
        // such sign: somebody may have brought it back.
        let is_old = seen.resource_version.is_some() && seen.resource_version == entry.before;
        is_old || find_annotation(seen, annotation::SEEN) == Some(&entry.after)
    }

    fn insert(&self, key: Key, entry: Applied) {
        self.entries().insert(key, entry);
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Applied>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the records of a deleted cluster: of the objects with its name, or with its name and a dash as prefix.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        let is_of_cluster =
            |name: &str| name.strip_prefix(cluster).is_some_and(|suffix| suffix.is_empty() || suffix.starts_with('-'));
        self.entries().retain(|(_, space, name), _| space != namespace || !is_of_cluster(name));
    }
}

/// How soon an object is applied of which this process has no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Within an hour.
    Spread,
    /// Now: something does not serve, and the reason may be a change that somebody made while no operator ran.
    Now,
}

/// Applies `object` if it differs from the observed object. `owner` is the uid of the cluster.
///
/// # Errors
/// Fails if an object with this name has another owner, or if the API server refuses a request.
pub async fn apply(context: &Context, owner: &str, mut object: Object, urgency: Urgency) -> Result<(), ReconcileError> {
    let namespace = object.object.namespace().unwrap_or_default();
    let (kind, name) = (object.resource.kind.clone(), object.object.name_any());
    let hash = short_hash(&serde_json::to_value(&object.object).unwrap_or_default());
    let observed = context.observed_metadata(&kind, &namespace, &name);
    let key = (kind.clone(), namespace.clone(), name.clone());
    if let Some(observed) = &observed {
        if is_foreign(observed, owner) {
            return Err(ReconcileError::NameTaken(format!("{kind} {name}")));
        }
        let spread = match urgency {
            Urgency::Spread => u64::from(u16::from_str_radix(&hash[..4], 16).unwrap_or_default()) / 19,
            Urgency::Now => 0,
        };
        let spread = Duration::from_secs(spread);
        let being_deleted = observed.deletion_timestamp.is_some();
        if being_deleted
            || (find_annotation(observed, annotation::APPLIED) == Some(&hash)
                && context.ledger.is_settled(&key, observed, spread))
        {
            return Ok(());
        }
    }
    object.object.annotations_mut().insert(annotation::APPLIED.into(), hash);
    let applied = match &observed {
        Some(_) => {
            patch(context, &object, true).await.map_err(|source| ReconcileError::Apply { kind, name, source })?
        }
        None => apply_first(context, owner, &object).await?,
    };
    let before = observed.and_then(|observed| observed.resource_version);
    let after = hash_content(&applied);
    context.ledger.insert(key, Applied { at: Instant::now(), before, after });
    Ok(())
}

fn find_annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Returns true if an object with a name that a cluster needs does not belong to the cluster. An object without an
/// owner belongs to the cluster if the operator made it.
#[must_use]
pub(super) fn is_foreign(metadata: &ObjectMeta, owner: &str) -> bool {
    let ours =
        || metadata.labels.as_ref().and_then(|labels| labels.get(label::MANAGED_BY)).is_some_and(|by| by == LOCKSTEP);
    !is_owned_by(metadata, owner).unwrap_or_else(ours)
}

/// Applies an object that no watch shows. The watches show only objects with the operator's label. The object is either
/// new, or it has another owner, or it has lost its label. Fields of other managers are taken over only after the owner
/// is known.
async fn apply_first(context: &Context, owner: &str, object: &Object) -> Result<DynamicObject, ReconcileError> {
    let (kind, name) = (object.resource.kind.clone(), object.object.name_any());
    // Server-side apply would adopt a claim with the same fields without a conflict. Kubernetes would then delete the
    // claim and its data with the cluster.
    if kind != "PersistentVolumeClaim" {
        match patch(context, object, false).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return other.map_err(|source| ReconcileError::Apply { kind, name, source }),
        }
    }
    context.metrics.count_request("get");
    let found = api(context, object).get_metadata_opt(&name).await;
    let refused = |source| ReconcileError::Apply { kind: kind.clone(), name: name.clone(), source };
    if found.map_err(refused)?.is_some_and(|found| is_foreign(&found.metadata, owner)) {
        return Err(ReconcileError::NameTaken(format!("{kind} {name}")));
    }
    patch(context, object, true).await.map_err(refused)
}

fn api(context: &Context, object: &Object) -> Api<DynamicObject> {
    let namespace = object.object.namespace().unwrap_or_default();
    Api::namespaced_with(context.client.clone(), &namespace, &object.resource)
}

/// Sends a server-side apply. `force` takes over the fields of other managers.
async fn patch(context: &Context, object: &Object, force: bool) -> kube::Result<DynamicObject> {
    let (api, name) = (api(context, object), object.object.name_any());
    let mut whole = object.object.clone();
    whole.types = Some(kube::api::TypeMeta {
        api_version: object.resource.api_version.clone(),
        kind: object.resource.kind.clone(),
    });
    let applied = async || {
        context.metrics.count_request("patch");
        let params = PatchParams { force, ..PatchParams::apply(FIELD_MANAGER) };
        api.patch(&name, &params, &Patch::Apply(&whole)).await
    };
    match applied().await {
        // Server-side apply merges lists by key. If somebody changed the key of an entry (a Service's port), both
        // entries remain, and the object is invalid. A merge patch replaces the whole list.
        Err(kube::Error::Api(status)) if status.code == 422 && force => {
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            context.metrics.count_request("patch");
            match api.patch(&name, &params, &Patch::Merge(&whole)).await {
                Ok(_) => applied().await,
                Err(_) => Err(kube::Error::Api(status)),
            }
        }
        other => other,
    }
}

/// Deletes an object. An object that is gone already is not an error.
///
/// # Errors
/// Fails if the API server refuses the request.
pub async fn delete<K>(
    context: &Context,
    namespace: &str,
    name: &str,
    options: DeleteOptions<'_>,
) -> Result<(), ReconcileError>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let mut params = DeleteParams::default();
    if let Some(seconds) = options.grace_period {
        params = params.grace_period(seconds);
    }
    if let Some(uid) = options.uid {
        params = params.preconditions(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
    }
    context.metrics.count_request("delete");
    match api.delete(name, &params).await {
        Ok(_) => Ok(()),
        // The object is gone, or another object has its name.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(source) => Err(ReconcileError::Delete { kind: K::kind(&()).into_owned(), name: name.to_owned(), source }),
    }
}

/// Deletes the observed object, and no later object of the same name.
///
/// # Errors
/// Fails if the API server refuses the request.
pub async fn delete_observed<K>(
    context: &Context,
    namespace: &str,
    seen: &K,
    grace_period: Option<u32>,
) -> Result<(), ReconcileError>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let uid = seen.uid();
    delete::<K>(context, namespace, &seen.name_any(), DeleteOptions { uid: uid.as_deref(), grace_period }).await
}

/// Grace period with which the API server deletes a pod without the confirmation of its Kubernetes node.
pub const FORCED: Option<u32> = Some(0);

/// Options of a deletion.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeleteOptions<'a> {
    /// Uid of the object, if only the object with this uid is to be deleted.
    pub uid: Option<&'a str>,
    /// Seconds for which a pod may go on, if other than the pod's own.
    pub grace_period: Option<u32>,
}
