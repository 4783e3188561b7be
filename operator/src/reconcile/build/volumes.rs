//! The volumes of a pod, and their mounts in its containers. A mount shows the whole Secret, because the kubelet does
//! not replace files that are mounted by `subPath` while the pod runs.

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, ImageVolumeSource, PersistentVolumeClaimVolumeSource, SecretVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::plan::{
    API_KEYS_DIR, CLIENT_TLS_DIR, ClusterNames, ContainerPlan, HEAD, MODELS_DIR, ModelVolume, RANK, TLS_DIR,
    model_volume,
};
use crate::reconcile::validate::{Collectives, Validated};
use crate::resource::Serving;

/// Home folder, which also holds temporary files. Each container has a folder of its own, and can write to no other
/// folder of its root file system.
pub(super) const TMP: &str = "/tmp";
/// Folder of the model cache.
const CACHE: &str = "/cache";
/// Folder for downloads in the model cache.
pub(super) const CACHE_HOME: &str = "/cache/huggingface";
/// Folder of shared memory, which NCCL uses.
const SHARED_MEMORY: &str = "/dev/shm";

/// Shared memory of NCCL for each rank of a pod, in GiB.
const SHARED_MEMORY_GIB: u32 = 1;

/// File mode of Secrets: owner and group may read. The group is the pod's group.
const SECRET_MODE: i32 = 0o440;

const MODEL: &str = "model";
const CACHE_VOLUME: &str = "model-cache";
const API_KEYS: &str = "api-keys";
const CLIENT_TLS: &str = "client-tls";
const SHM: &str = "shared-memory";

fn tmp_volume_name(container: &str) -> String {
    format!("{container}-tmp")
}

fn tls_volume_name(container: &str) -> String {
    format!("{container}-tls")
}

/// Returns the role in a container's certificate: `head` for the head, and `node` for each container of ranks.
fn tls_role(container: &str) -> &'static str {
    if container == HEAD { "head" } else { "node" }
}

/// Returns the Secrets for clients that a head mounts: the volume, the Secret's name and the folder.
fn client_secrets(serving: &Serving) -> impl Iterator<Item = (&'static str, &str, &'static str)> {
    let keys = serving.api_keys_secret_ref.as_ref().map(|secret| (API_KEYS, secret.name.as_str(), API_KEYS_DIR));
    let tls = serving.tls_secret_ref.as_ref().map(|secret| (CLIENT_TLS, secret.name.as_str(), CLIENT_TLS_DIR));
    keys.into_iter().chain(tls)
}

/// Returns the volumes of a pod with these containers.
pub(super) fn pod_volumes(cluster: &Validated, containers: &[ContainerPlan]) -> Vec<Volume> {
    let names = ClusterNames::new(&cluster.identity.name);
    let mut all = Vec::new();
    for container in containers {
        all.push(empty_dir(tmp_volume_name(container.name), EmptyDirVolumeSource::default()));
        all.push(secret_volume(tls_volume_name(container.name), names.tls_secret(tls_role(container.name))));
    }
    if cluster.collectives == Collectives::Nccl {
        let size = format!("{}Gi", SHARED_MEMORY_GIB * cluster.spec.devices_per_node);
        let memory = EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit: Some(Quantity(size)) };
        all.push(empty_dir(SHM.into(), memory));
    }
    all.extend(model_volume(&cluster.spec.model.source).map(build_model_volume));
    if containers.iter().any(|container| container.name == HEAD) {
        let secrets = client_secrets(&cluster.spec.serving);
        all.extend(secrets.map(|(volume, secret, _)| secret_volume(volume.into(), secret.into())));
    }
    if cluster.spec.model_cache.is_some() {
        all.push(claim_volume(CACHE_VOLUME, names.cache_claim(), false));
    }
    all
}

/// Returns the mounts of `container`. The head mounts the model too, because it reads the configuration and the
/// tokenizer.
pub(super) fn container_mounts(cluster: &Validated, container: &str) -> Vec<VolumeMount> {
    let mut all = vec![mount(tmp_volume_name(container), TMP, false), mount(tls_volume_name(container), TLS_DIR, true)];
    if cluster.collectives == Collectives::Nccl && container == RANK {
        all.push(mount(SHM.into(), SHARED_MEMORY, false));
    }
    if container == HEAD {
        let secrets = client_secrets(&cluster.spec.serving);
        all.extend(secrets.map(|(volume, _, folder)| mount(volume.into(), folder, true)));
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

fn empty_dir(name: String, source: EmptyDirVolumeSource) -> Volume {
    Volume { name, empty_dir: Some(source), ..Default::default() }
}

fn secret_volume(name: String, secret: String) -> Volume {
    let source =
        SecretVolumeSource { secret_name: Some(secret), default_mode: Some(SECRET_MODE), ..Default::default() };
    Volume { name, secret: Some(source), ..Default::default() }
}

fn claim_volume(name: &str, claim: String, read_only: bool) -> Volume {
    let source = PersistentVolumeClaimVolumeSource { claim_name: claim, read_only: read_only.then_some(true) };
    Volume { name: name.into(), persistent_volume_claim: Some(source), ..Default::default() }
}

fn build_model_volume(volume: ModelVolume) -> Volume {
    match volume {
        ModelVolume::Claim(name) => claim_volume(MODEL, name, true),
        ModelVolume::Image(reference) => Volume {
            name: MODEL.into(),
            image: Some(ImageVolumeSource { reference: Some(reference), ..Default::default() }),
            ..Default::default()
        },
    }
}
