//! The Secrets: their data as text, and whether one must be written.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use crate::objects::{ClusterIdentity, labels};

/// Data of a Secret.
pub(super) type Data = BTreeMap<String, ByteString>;

/// Type of a leaf's Secret.
pub(super) const TLS: &str = "kubernetes.io/tls";
pub(super) const OPAQUE: &str = "Opaque";

/// The Secret called `name` among `existing`.
pub(super) fn find<'a>(existing: &'a [Secret], name: &str) -> Option<&'a Secret> {
    existing.iter().find(|secret| secret.metadata.name.as_deref() == Some(name))
}

/// What `secret` holds under `key`; empty where it does not.
pub(super) fn bytes<'a>(secret: Option<&'a Secret>, key: &str) -> &'a [u8] {
    let data = secret.and_then(|secret| secret.data.as_ref());
    data.and_then(|data| data.get(key)).map_or(&[], |bytes| bytes.0.as_slice())
}

/// The same as text; empty where it is none.
pub(super) fn text<'a>(secret: Option<&'a Secret>, key: &str) -> &'a str {
    std::str::from_utf8(bytes(secret, key)).unwrap_or_default()
}

/// `pairs` as data; what is empty is left out.
pub(super) fn data<const N: usize>(pairs: [(&str, &str); N]) -> Data {
    let filled = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    filled.map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec()))).collect()
}

/// The Secret as it should be, where `existing` is not that already.
pub(super) fn changed(
    cluster: &ClusterIdentity,
    name: String,
    kind: &str,
    data: Data,
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
