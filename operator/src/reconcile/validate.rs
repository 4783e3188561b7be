//! The second step: turns a stored cluster into typed values, and makes the choices that the spec leaves open. It
//! checks the fields that the CRD's rules cannot check: overlays, resources and variables. Pure. [`Validated`] is the
//! only input of `build`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{EnvVar, PodTemplateSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Resource as _, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::objects::ClusterIdentity;
use crate::plan::{HEAD, world_size};
use crate::resource::{Backend, InferenceCluster, InferenceClusterSpec};

/// Name of the resource of GPUs.
pub const GPU: &str = "nvidia.com/gpu";

/// Drain timeout of a cluster whose own timeout cannot be parsed. The CRD's rules refuse such a timeout.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);

/// Parts of the label keys that Kueue and gang schedulers read.
const QUEUE_KEYS: [&str; 2] = ["kueue.x-k8s.io/", "scheduling.x-k8s.io/"];

/// Settings of the operator that clusters inherit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Default image of the agent.
    pub agent_image: String,
    /// Pods of the operator, if they are known. Network policies open the control ports of heads to these pods.
    pub operator_pods: Option<OperatorPods>,
}

/// Namespace and labels by which a NetworkPolicy selects the operator's pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorPods {
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
}

/// Transport of the collectives, after the choice for `Auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collectives {
    Nccl,
    Ring,
}

impl Collectives {
    /// Returns the value in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nccl => "Nccl",
            Self::Ring => "Ring",
        }
    }
}

/// A valid cluster, from which objects can be built.
#[derive(Debug, Clone)]
pub struct Validated {
    pub identity: ClusterIdentity,
    pub generation: i64,
    pub spec: InferenceClusterSpec,
    pub collectives: Collectives,
    /// Image of the agent: the image of the spec, or else the operator's default.
    pub image: String,
    /// Overlay of all pods, which is applied first.
    pub template: PodTemplateSpec,
    /// Overlay of head pods.
    pub head: PodTemplateSpec,
    /// Overlay of worker pods.
    pub worker: PodTemplateSpec,
    /// Resources of each `rank` container, GPUs included.
    pub resources: ResourceRequirements,
    /// Variables of every container.
    pub env: Vec<EnvVar>,
    /// Time for which a group may finish its requests.
    pub drain_timeout: Duration,
    /// Labels of the cluster that a queue or a gang scheduler reads. The StatefulSets and pods carry them too.
    pub queue_labels: BTreeMap<String, String>,
    pub operator_pods: Option<OperatorPods>,
}

/// Reason why no objects can be built from a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field}: {message}")]
pub struct Invalid {
    pub field: &'static str,
    pub message: String,
}

/// Typed parts of a spec, and the transport of its collectives.
struct TypedSpec {
    template: PodTemplateSpec,
    head: PodTemplateSpec,
    worker: PodTemplateSpec,
    resources: ResourceRequirements,
    env: Vec<EnvVar>,
    collectives: Collectives,
}

/// Checks a spec by the rules that the CRD cannot express. `lockstep plan` without `--local` calls this function, and
/// needs no Kubernetes for it.
///
/// # Errors
/// Returns the first field that the operator would refuse, with a remedy.
pub fn check_spec(spec: &InferenceClusterSpec) -> Result<(), Invalid> {
    refuse_nccl_groups(spec, parse_spec(spec)?.collectives)
}

/// Validates `cluster`, and makes the choices that its spec leaves open.
///
/// # Errors
/// Returns the first field that is invalid or that the operator cannot carry out, with a remedy.
pub fn validate(cluster: &InferenceCluster, defaults: &Defaults) -> Result<Validated, Invalid> {
    let validated = resolve(cluster, defaults)?;
    refuse_nccl_groups(&validated.spec, validated.collectives)?;
    Ok(validated)
}

/// Does the same as [`validate`], but accepts groups over NCCL of any size. `build` can already build their objects.
pub(super) fn resolve(cluster: &InferenceCluster, defaults: &Defaults) -> Result<Validated, Invalid> {
    let spec = cluster.spec.clone();
    let owner = cluster.controller_owner_ref(&()).ok_or_else(|| Invalid {
        field: "",
        message: "the object has no name or uid, so the API server has not stored it".into(),
    })?;
    let TypedSpec { template, head, worker, resources, env, collectives } = parse_spec(&spec)?;
    Ok(Validated {
        identity: ClusterIdentity {
            name: cluster.metadata.name.clone().unwrap_or_default(),
            namespace: cluster.metadata.namespace.clone().unwrap_or_default(),
            owner,
        },
        generation: cluster.metadata.generation.unwrap_or_default(),
        collectives,
        image: spec.image.clone().unwrap_or_else(|| defaults.agent_image.clone()),
        template,
        head,
        worker,
        resources,
        env,
        drain_timeout: parse_duration(&spec.update_strategy.drain_timeout).unwrap_or(DRAIN_TIMEOUT),
        queue_labels: cluster
            .labels()
            .iter()
            .filter(|(key, _)| is_queue_label(key))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        operator_pods: defaults.operator_pods.clone(),
        spec,
    })
}

/// Parses the untyped parts of a spec, and chooses the transport.
fn parse_spec(spec: &InferenceClusterSpec) -> Result<TypedSpec, Invalid> {
    let overlay = |field, given: &Option<Map<String, Value>>| parse_overlay(field, given.as_ref());
    let (all, head, worker) =
        (overlay("template", &spec.template)?, overlay("head", &spec.head)?, overlay("worker", &spec.worker)?);
    let mut resources: ResourceRequirements = parse_typed("resources", spec.resources.clone().unwrap_or_default())?;
    let collectives = match spec.backend {
        Backend::Nccl => Collectives::Nccl,
        Backend::Ring => Collectives::Ring,
        Backend::Auto if asks_for_gpus(&resources, [&all, &head, &worker]) => Collectives::Nccl,
        Backend::Auto => Collectives::Ring,
    };
    if collectives == Collectives::Nccl {
        add_gpus(&mut resources, spec.devices_per_node);
    }
    let env = spec.env.iter().map(|var| parse_typed("env", json_object(var))).collect::<Result<_, _>>()?;
    Ok(TypedSpec { template: all, head, worker, resources, env, collectives })
}

/// Refuses groups over NCCL, which agents of this version cannot form.
fn refuse_nccl_groups(spec: &InferenceClusterSpec, collectives: Collectives) -> Result<(), Invalid> {
    let ranks = world_size(spec);
    if collectives != Collectives::Nccl || ranks == 1 {
        return Ok(());
    }
    let (chosen, change) = match spec.backend {
        Backend::Auto => ("Auto means Nccl if pods ask for nvidia.com/gpu", "remove nvidia.com/gpu from the spec"),
        Backend::Nccl | Backend::Ring => ("Nccl", "set it to Ring"),
    };
    let message = format!(
        "{chosen}, and this version forms no groups over NCCL: a group of this spec has {ranks} ranks, (1 + workers) × \
         devicesPerNode. To run on CPUs, {change}; for one rank on one GPU, set workers to 0 and devicesPerNode to 1"
    );
    Err(Invalid { field: "backend", message })
}

/// Parses an overlay, and checks that each container can be merged.
fn parse_overlay(field: &'static str, given: Option<&Map<String, Value>>) -> Result<PodTemplateSpec, Invalid> {
    let refuse = |message| Err(Invalid { field, message });
    let template: PodTemplateSpec = parse_typed(field, given.cloned().unwrap_or_default())?;
    let Some(spec) = &template.spec else { return Ok(template) };
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    if containers.any(|container| container.name.is_empty()) {
        let message = "a container has no name, so it cannot be merged; name it head or rank, or give your own \
                       container another name";
        return refuse(message.into());
    }
    if field == "worker" && spec.containers.iter().any(|container| container.name == HEAD) {
        return refuse("worker pods have no container `head`; move the container to spec.head, or name it rank".into());
    }
    Ok(template)
}

/// Parses a value as a type of Kubernetes. Refuses fields that the type does not have, because parsing would drop them
/// silently.
fn parse_typed<T: DeserializeOwned + Serialize>(field: &'static str, given: Map<String, Value>) -> Result<T, Invalid> {
    let refuse =
        |message: String| Invalid { field, message: format!("{message}; `kubectl explain pod` lists the fields") };
    let given = Value::Object(given);
    let typed: T = serde_json::from_value(given.clone()).map_err(|error| refuse(error.to_string()))?;
    match find_dropped(&given, &Value::Object(json_object(&typed))) {
        None => Ok(typed),
        Some(path) => Err(refuse(format!("Kubernetes has no field {path} here"))),
    }
}

/// Returns the path of the first field of `given` that `kept` lacks.
fn find_dropped(given: &Value, kept: &Value) -> Option<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(key, value)| match kept.get(key) {
            None if value.is_null() => None,
            None => Some(key.clone()),
            Some(kept) => find_dropped(value, kept).map(|path| format!("{key}.{path}")),
        }),
        (Value::Array(given), Value::Array(kept)) => given
            .iter()
            .zip(kept)
            .enumerate()
            .find_map(|(index, (given, kept))| find_dropped(given, kept).map(|path| format!("{index}.{path}"))),
        _ => None,
    }
}

fn json_object(value: &impl Serialize) -> Map<String, Value> {
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

/// Asks for one GPU for each rank of the pod, unless the user gave a number. Kubernetes wants the same number in limits
/// and requests.
fn add_gpus(resources: &mut ResourceRequirements, devices: u32) {
    let requested = resources.requests.as_ref().and_then(|requests| requests.get(GPU)).cloned();
    let number = requested.unwrap_or_else(|| Quantity(devices.to_string()));
    resources.limits.get_or_insert_default().entry(GPU.to_owned()).or_insert(number);
}

fn is_queue_label(key: &str) -> bool {
    QUEUE_KEYS.iter().any(|part| key.contains(part))
}

/// Parses a time in the form that the CRD's rules accept: `300s` or `10m`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, scale) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s')?, 1),
    };
    Some(Duration::from_secs(number.parse::<u32>().ok()? as u64 * scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::testing;

    fn check(fields: &str) -> Result<(), String> {
        let cluster = testing::cluster(&format!("{{ model: {{ source: 'builtin://tiny' }}, {fields} }}"));
        let defaults = Defaults { agent_image: "agent:1".into(), operator_pods: None };
        let stored = validate(&cluster, &defaults).map(drop);
        assert_eq!(stored, check_spec(&cluster.spec), "the command and the operator differ");
        stored.map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn nccl_takes_one_rank() {
        let gpus = "resources: { limits: { nvidia.com/gpu: 1 } }";
        for fields in ["backend: Nccl", gpus, "backend: Ring, workers: 3", "workers: 3, devicesPerNode: 2"] {
            assert_eq!(check(fields), Ok(()), "{fields}");
        }
        let on_ring = format!("backend: Ring, workers: 1, {gpus}");
        assert_eq!(check(&on_ring), Ok(()));
        let overlay = "{ spec: { containers: [{ name: rank, resources: { limits: { nvidia.com/gpu: 1 } } }] } }";
        for (fields, ranks, change) in [
            ("backend: Nccl, workers: 1".to_owned(), "2 ranks", "set it to Ring"),
            ("backend: Nccl, workers: 1, devicesPerNode: 8".to_owned(), "16 ranks", "set it to Ring"),
            (format!("devicesPerNode: 2, {gpus}"), "2 ranks", "remove nvidia.com/gpu"),
            (format!("workers: 3, worker: {overlay}"), "4 ranks", "remove nvidia.com/gpu"),
        ] {
            let refused = check(&fields).unwrap_err();
            for part in ["spec.backend: ", ranks, change, "set workers to 0 and devicesPerNode to 1"] {
                assert!(refused.contains(part), "{fields}: {part} is not in {refused}");
            }
        }
    }
}
