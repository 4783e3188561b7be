//! Secrets: their data as text, and the decision whether one must be written.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use crate::objects::{ClusterIdentity, labels};

/// Data of a Secret.
pub(super) type SecretData = BTreeMap<String, ByteString>;

/// Type of a Secret with a leaf for pods.
pub(super) const TLS: &str = "kubernetes.io/tls";
/// Type of the operator's Secret.
pub(super) const OPAQUE: &str = "Opaque";

/// Returns the Secret `name` among `existing`.
pub(super) fn find_secret<'a>(existing: &'a [Secret], name: &str) -> Option<&'a Secret> {
    existing.iter().find(|secret| secret.metadata.name.as_deref() == Some(name))
}

/// Returns the value of `key` in `secret`, or no bytes if there is none.
pub(super) fn secret_bytes<'a>(secret: Option<&'a Secret>, key: &str) -> &'a [u8] {
    let data = secret.and_then(|secret| secret.data.as_ref());
    data.and_then(|data| data.get(key)).map_or(&[], |bytes| bytes.0.as_slice())
}

/// Returns the value of `key` in `secret` as text, or no text if the value is not UTF-8.
pub(super) fn secret_text<'a>(secret: Option<&'a Secret>, key: &str) -> &'a str {
    std::str::from_utf8(secret_bytes(secret, key)).unwrap_or_default()
}

/// Returns `pairs` as data of a Secret, without those that have no value.
pub(super) fn secret_data<const N: usize>(pairs: [(&str, &str); N]) -> SecretData {
    let filled = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    filled.map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec()))).collect()
}

/// Returns the Secret as it should be, or `None` if `existing` is so already.
pub(super) fn changed_secret(
    cluster: &ClusterIdentity,
    name: String,
    kind: &str,
    data: SecretData,
    existing: Option<&Secret>,
) -> Option<Secret> {
    let mut metadata = cluster.metadata(name, labels::cluster_labels(&cluster.name));
    if let Some(existing) = existing {
        let held = existing.metadata.labels.clone().unwrap_or_default();
        let labelled = metadata.labels.iter().flatten().all(|(key, value)| held.get(key) == Some(value));
        let owners = existing.metadata.owner_references.clone().unwrap_or_default();
        let owned = owners.iter().any(|owner| owner.uid == cluster.owner.uid);
        if labelled && owned && existing.data.as_ref() == Some(&data) {
            return None;
        }
        metadata.resource_version = existing.metadata.resource_version.clone();
    }
    // The type of a Secret cannot be changed.
    let kind = existing.and_then(|existing| existing.type_.clone()).unwrap_or_else(|| kind.to_owned());
    Some(Secret { metadata, type_: Some(kind), data: Some(data), ..Default::default() })
}
