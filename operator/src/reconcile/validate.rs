//! The second step: from the object as stored to one whose parts are typed and whose choices are made. What the CRD's
//! rules cannot see (overlays, resources) is judged here. Pure; the only input of `build`.

use std::time::Duration;

use k8s_openapi::api::core::v1::{EnvVar, PodTemplateSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::resource::{Backend, InferenceCluster, InferenceClusterSpec};

/// Resource name of a GPU.
pub const GPU: &str = "nvidia.com/gpu";

/// What the operator was started with that clusters inherit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Image of the agent.
    pub agent_image: String,
}

/// Transport of the collectives, chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collectives {
    Nccl,
    Ring,
}

impl Collectives {
    /// As the status says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nccl => "Nccl",
            Self::Ring => "Ring",
        }
    }
}

/// A cluster that objects can be made of.
#[derive(Debug, Clone)]
pub struct Validated {
    pub name: String,
    pub namespace: String,
    pub generation: i64,
    /// Points to the cluster; every object carries it.
    pub owner: OwnerReference,
    pub spec: InferenceClusterSpec,
    pub collectives: Collectives,
    /// Image of the agent: the cluster's own or the operator's.
    pub image: String,
    /// Overlays, typed, in the order in which they are laid: all pods; heads; workers.
    pub template: PodTemplateSpec,
    pub head: PodTemplateSpec,
    pub worker: PodTemplateSpec,
    /// Of each `rank` container, GPUs included.
    pub resources: ResourceRequirements,
    /// For every container.
    pub env: Vec<EnvVar>,
    /// How long a group may finish what it has.
    pub drain_timeout: Duration,
}

/// Why no object can be made of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field}: {message}")]
pub struct Invalid {
    pub field: &'static str,
    pub message: String,
}

/// Judges `cluster`.
///
/// # Errors
/// The first field that has no meaning, with what to do.
pub fn validate(cluster: &InferenceCluster, defaults: &Defaults) -> Result<Validated, Invalid> {
    let spec = cluster.spec.clone();
    let owner = cluster.controller_owner_ref(&()).ok_or_else(|| Invalid {
        field: "",
        message: "the object has no name or uid, so the API server has not stored it".into(),
    })?;
    let overlay = |field, given: &Option<Map<String, Value>>| template(field, given.as_ref());
    let (all, head, worker) =
        (overlay("template", &spec.template)?, overlay("head", &spec.head)?, overlay("worker", &spec.worker)?);
    let mut resources: ResourceRequirements = typed("resources", spec.resources.clone().unwrap_or_default())?;
    let collectives = match spec.backend {
        Backend::Nccl => Collectives::Nccl,
        Backend::Ring => Collectives::Ring,
        Backend::Auto if asks_for_gpus(&resources, [&all, &head, &worker]) => Collectives::Nccl,
        Backend::Auto => Collectives::Ring,
    };
    if collectives == Collectives::Nccl {
        with_gpus(&mut resources, spec.devices_per_node);
    }
    let env = spec.env.iter().map(|var| typed("env", json_object(var))).collect::<Result<_, _>>()?;
    Ok(Validated {
        name: cluster.metadata.name.clone().unwrap_or_default(),
        namespace: cluster.metadata.namespace.clone().unwrap_or_default(),
        generation: cluster.metadata.generation.unwrap_or_default(),
        owner,
        collectives,
        image: spec.image.clone().unwrap_or_else(|| defaults.agent_image.clone()),
        template: all,
        head,
        worker,
        resources,
        env,
        drain_timeout: seconds(&spec.update_strategy.drain_timeout),
        spec,
    })
}

fn template(field: &'static str, given: Option<&Map<String, Value>>) -> Result<PodTemplateSpec, Invalid> {
    let given = given.cloned().unwrap_or_default();
    if let Some(unknown) = given.keys().find(|key| !["metadata", "spec"].contains(&key.as_str())) {
        let message = format!("{unknown} is no part of a pod template; write it under metadata or spec");
        return Err(Invalid { field, message });
    }
    typed(field, given)
}

fn typed<T: DeserializeOwned>(field: &'static str, given: Map<String, Value>) -> Result<T, Invalid> {
    serde_json::from_value(Value::Object(given)).map_err(|error| Invalid {
        field,
        message: format!("{error}; see `kubectl explain pod.spec` for what it may hold"),
    })
}

fn json_object(value: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn asks_for_gpus(resources: &ResourceRequirements, overlays: [&PodTemplateSpec; 3]) -> bool {
    let asks = |resources: &ResourceRequirements| {
        [&resources.limits, &resources.requests].into_iter().flatten().any(|amounts| amounts.contains_key(GPU))
    };
    let containers = overlays.into_iter().filter_map(|overlay| overlay.spec.as_ref()).flat_map(|spec| &spec.containers);
    asks(resources) || containers.filter_map(|container| container.resources.as_ref()).any(asks)
}

/// One GPU for each rank of the node, unless the user asked for a number.
fn with_gpus(resources: &mut ResourceRequirements, devices: u32) {
    let limits = resources.limits.get_or_insert_default();
    limits
        .entry(GPU.to_owned())
        .or_insert_with(|| k8s_openapi::apimachinery::pkg::api::resource::Quantity(devices.to_string()));
}

/// A time as the CRD's rules let it through: `300s` or `10m`.
fn seconds(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number = number.parse().unwrap_or(300);
    Duration::from_secs(if unit == "m" { number * 60 } else { number })
}
