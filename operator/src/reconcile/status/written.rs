//! The statuses that this process wrote last. A watch may be late, and then a cluster shows a status of the past.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::ResourceExt as _;

use crate::resource::{InferenceCluster, InferenceClusterStatus};

/// Namespace and name of a cluster.
type Key = (String, String);

/// The status that was written last, for each cluster, and the cluster's uid.
#[derive(Debug, Default)]
pub struct WrittenStatuses(Mutex<HashMap<Key, (Option<String>, InferenceClusterStatus)>>);

impl WrittenStatuses {
    /// Returns the cluster with the status that this process wrote last, or as it is.
    pub(in crate::reconcile) fn restore(&self, cluster: &Arc<InferenceCluster>) -> Arc<InferenceCluster> {
        match self.entries().get(&key(cluster)) {
            Some((uid, status)) if *uid == cluster.metadata.uid && cluster.status.as_ref() != Some(status) => {
                Arc::new(InferenceCluster { status: Some(status.clone()), ..InferenceCluster::clone(cluster) })
            }
            _ => cluster.clone(),
        }
    }

    /// Keeps the status that the API server has stored.
    pub(super) fn note(&self, cluster: &InferenceCluster, status: Option<InferenceClusterStatus>) {
        if let Some(status) = status {
            self.entries().insert(key(cluster), (cluster.metadata.uid.clone(), status));
        }
    }

    /// Drops the status of a deleted cluster.
    pub(in crate::reconcile) fn forget(&self, namespace: &str, name: &str) {
        self.entries().remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, (Option<String>, InferenceClusterStatus)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(cluster: &InferenceCluster) -> Key {
    (cluster.namespace().unwrap_or_default(), cluster.name_any())
}
