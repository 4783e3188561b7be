//! The volumes of a pod and where its containers see them. Secrets are mounted whole, so that the kubelet can replace
//! their files while the pod runs.

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, ImageVolumeSource, PersistentVolumeClaimVolumeSource, SecretVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::plan::{ClusterNames, ContainerPlan, HEAD, MODELS_DIR, ModelVolume, RANK, TLS_DIR, model_volume};
use crate::reconcile::validate::{Collectives, Validated};

/// Home and temporary files: one folder for each container, the only place that it can write to.
pub(super) const TMP: &str = "/tmp";
/// The model cache, and the folder in it that downloads go to.
const CACHE: &str = "/cache";
pub(super) const CACHE_HOME: &str = "/cache/huggingface";
const SHARED_MEMORY: &str = "/dev/shm";

/// NCCL's buffers between the ranks of a node, for each rank.
const SHARED_MEMORY_GIB: u32 = 1;

/// Owner and group may read; the group is the pod's.
const SECRET_MODE: i32 = 0o440;

const MODEL: &str = "model";
const CACHE_VOLUME: &str = "model-cache";
const SHM: &str = "shared-memory";

fn tmp(container: &str) -> String {
    format!("{container}-tmp")
}

fn tls(container: &str) -> String {
    format!("{container}-tls")
}

/// Role of a container's certificates: a head shows itself as `head`, whatever runs ranks as `node`.
fn tls_role(container: &str) -> &'static str {
    if container == HEAD { "head" } else { "node" }
}

/// Volumes of a pod with these containers.
pub(super) fn volumes(cluster: &Validated, containers: &[ContainerPlan]) -> Vec<Volume> {
    let names = ClusterNames::new(&cluster.identity.name);
    let mut all = Vec::new();
    for container in containers {
        all.push(empty(tmp(container.name), EmptyDirVolumeSource::default()));
        all.push(secret(tls(container.name), names.tls_secret(tls_role(container.name))));
    }
    if cluster.collectives == Collectives::Nccl {
        let size = format!("{}Gi", SHARED_MEMORY_GIB * cluster.spec.devices_per_node);
        let memory = EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: Some(Quantity(size)) };
        all.push(empty(SHM.into(), memory));
    }
    all.extend(model_volume(&cluster.spec.model.source).map(model));
    if cluster.spec.model_cache.is_some() {
        all.push(claim(CACHE_VOLUME, names.cache_claim(), false));
    }
    all
}

/// What `container` sees of them. The head reads configuration and tokenizer from where the ranks read weights.
pub(super) fn mounts(cluster: &Validated, container: &str) -> Vec<VolumeMount> {
    let mut all = vec![mount(tmp(container), TMP, false), mount(tls(container), TLS_DIR, true)];
    if cluster.collectives == Collectives::Nccl && container == RANK {
        all.push(mount(SHM.into(), SHARED_MEMORY, false));
    }
    if model_volume(&cluster.spec.model.source).is_some() {
        all.push(mount(MODEL.into(), MODELS_DIR, true));
    }
    if cluster.spec.model_cache.is_some() {
        all.push(mount(CACHE_VOLUME.into(), CACHE, false));
    }
    all
}

fn mount(name: String, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount { name, mount_path: path.into(), read_only: read_only.then_some(true), ..Default::default() }
}

fn empty(name: String, source: EmptyDirVolumeSource) -> Volume {
    Volume { name, empty_dir: Some(source), ..Default::default() }
}

fn secret(name: String, secret: String) -> Volume {
    let source =
        SecretVolumeSource { secret_name: Some(secret), default_mode: Some(SECRET_MODE), ..Default::default() };
    Volume { name, secret: Some(source), ..Default::default() }
}

fn claim(name: &str, claim: String, read_only: bool) -> Volume {
    let source = PersistentVolumeClaimVolumeSource { claim_name: claim, read_only: read_only.then_some(true) };
    Volume { name: name.into(), persistent_volume_claim: Some(source), ..Default::default() }
}

fn model(volume: ModelVolume) -> Volume {
    match volume {
        ModelVolume::Claim(name) => claim(MODEL, name, true),
        ModelVolume::Image(reference) => Volume {
            name: MODEL.into(),
            image: Some(ImageVolumeSource { reference: Some(reference), ..Default::default() }),
            ..Default::default()
        },
    }
}
