//! The PersistentVolumeClaim of the model cache, which all pods of a cluster share.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::objects::labels;
use crate::plan::ClusterNames;
use crate::reconcile::validate::Validated;

/// Builds the claim, if the spec has a model cache. Kubernetes deletes the claim with the cluster.
pub(super) fn build_cache_claim(cluster: &Validated) -> Option<PersistentVolumeClaim> {
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
