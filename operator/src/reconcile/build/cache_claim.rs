//! The claim that keeps what was downloaded, shared by all pods of a cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::objects::labels;
use crate::plan::ClusterNames;
use crate::reconcile::validate::Validated;

/// The claim, where a cache is asked for. It goes with the cluster.
pub(super) fn of_cluster(cluster: &Validated) -> Option<PersistentVolumeClaim> {
    let cache = cluster.spec.model_cache.as_ref()?;
    let name = ClusterNames::new(&cluster.identity.name).cache_claim();
    let storage = BTreeMap::from([("storage".to_owned(), Quantity(cache.size.clone()))]);
    Some(PersistentVolumeClaim {
        metadata: cluster.identity.metadata(name, labels::cluster_labels(&cluster.identity.name)),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![cache.access_mode.as_str().into()]),
            storage_class_name: cache.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements { requests: Some(storage), ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    })
}
