//! Plan of a judged `InferenceCluster`: the command and the environment of every pod. Pure: the same cluster and the
//! same addresses give the same plan. The operator makes pods of a plan, and `lockstep up` makes local processes of it.

mod addresses;
mod environment;
mod names;
mod show;
mod source;
#[cfg(test)]
mod tests;

pub use addresses::{Addresses, LocalPorts};
pub use names::{ClusterNames, Names};
pub(crate) use show::format_count;
pub use show::{describe_ranks, format_plan};
pub use source::{ModelVolume, model_volume};

use lockstep_proto::names::port;
use serde::Serialize;

use crate::resource::{InferenceCluster, InferenceClusterSpec};

/// Name of the agent's program on the image's `PATH`.
pub const AGENT: &str = "lockstep-agent";

/// Name of the container that runs the head.
pub const HEAD: &str = "head";
/// Name of the container that runs a pod's ranks.
pub const RANK: &str = "rank";
/// Folder of a container's certificates.
pub const TLS_DIR: &str = "/etc/lockstep/tls";
/// Folder of the keys of clients, in a head's container.
pub const API_KEYS_DIR: &str = "/etc/lockstep/api-keys";
/// Folder of the certificate of the client ports, in a head's container.
pub const CLIENT_TLS_DIR: &str = "/etc/lockstep/client-tls";
/// File of the group's key in a container.
pub const GROUP_KEY_FILE: &str = "/etc/lockstep/tls/group.key";
/// Folder of the weights of a `pvc://` or `oci://` source in a container.
pub const MODELS_DIR: &str = "/models";

/// All processes of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Name of the cluster.
    pub cluster: String,
    /// Groups by index, one for each replica.
    pub groups: Vec<GroupPlan>,
}

/// One group, which serves a whole copy of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupPlan {
    pub index: u32,
    /// Number of ranks in the group.
    pub world_size: u32,
    /// Number of pipeline stages. The ranks of a stage are tensor-parallel.
    pub pipeline_parallel_size: u32,
    pub head: PodPlan,
    /// Workers by ordinal.
    pub workers: Vec<PodPlan>,
}

impl GroupPlan {
    /// Returns the head, then the workers by ordinal.
    pub fn pods(&self) -> impl Iterator<Item = &PodPlan> {
        std::iter::once(&self.head).chain(&self.workers)
    }
}

/// One pod of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPlan {
    pub name: String,
    pub role: Role,
    /// Ranks in this pod, in order.
    pub ranks: Vec<u32>,
    /// Containers of the pod. The head pod has two in Kubernetes, so that a crash of a rank does not end the head. On
    /// one machine each pod is one process.
    pub containers: Vec<ContainerPlan>,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPlan {
    /// Name of the container: `head` or `rank`.
    pub name: &'static str,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment in the order of the contract: group, addresses, service.
    pub env: Vec<EnvVar>,
}

/// Role of a pod in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    Head,
    /// A worker, with its ordinal.
    Worker(u32),
}

/// One variable of a process's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    pub name: &'static str,
    pub value: String,
    /// Field of the pod from which Kubernetes takes the value, if pods of one template differ in the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
}

/// Returns the number of ranks of one group.
#[must_use]
pub fn world_size(spec: &InferenceClusterSpec) -> u32 {
    (1 + spec.workers) * spec.devices_per_node
}

/// Returns the plan of `cluster` at `addresses`.
#[must_use]
pub fn plan(cluster: &InferenceCluster, addresses: &Addresses) -> Plan {
    let name = cluster.metadata.name.clone().unwrap_or_default();
    let groups =
        (0..cluster.spec.replicas).map(|index| plan_group(&cluster.spec, &Names::new(&name, index), addresses));
    Plan { groups: groups.collect(), cluster: name }
}

fn plan_group(spec: &InferenceClusterSpec, names: &Names, addresses: &Addresses) -> GroupPlan {
    let pod = |name: String, role: Role| {
        let pods_before = match role {
            Role::Head => 0,
            Role::Worker(ordinal) => ordinal + 1,
        };
        let first = pods_before * spec.devices_per_node;
        PodPlan {
            name,
            role,
            ranks: (first..first + spec.devices_per_node).collect(),
            containers: containers(spec, names, addresses, role),
        }
    };
    GroupPlan {
        index: names.group(),
        world_size: world_size(spec),
        pipeline_parallel_size: spec.parallelism.pipeline,
        head: pod(names.head_pod(), Role::Head),
        workers: (0..spec.workers).map(|ordinal| pod(names.worker_pod(ordinal), Role::Worker(ordinal))).collect(),
    }
}

/// Returns the containers of the pods of `role` in Kubernetes. All workers of a group share one template.
#[must_use]
pub fn pod_containers(spec: &InferenceClusterSpec, names: &Names, role: Role) -> Vec<ContainerPlan> {
    containers(spec, names, &Addresses::Kubernetes, role)
}

fn containers(spec: &InferenceClusterSpec, names: &Names, addresses: &Addresses, role: Role) -> Vec<ContainerPlan> {
    let process = |name| ContainerPlan {
        name,
        command: vec![AGENT.into(), "plain".into(), "-m".into(), source::agent_source(spec, addresses)],
        env: environment::process_environment(spec, names, addresses, role),
    };
    match (addresses, role) {
        (Addresses::Kubernetes, Role::Head) => vec![process(HEAD), head_ranks(spec, names)],
        (_, Role::Head) => vec![process(HEAD)],
        (_, Role::Worker(_)) => vec![process(RANK)],
    }
}

/// Returns the container of the head pod's ranks, which runs beside the head's container.
fn head_ranks(spec: &InferenceClusterSpec, names: &Names) -> ContainerPlan {
    let flag = |name: &str, value: String| format!("--{name}={value}");
    ContainerPlan {
        name: RANK,
        command: vec![
            AGENT.into(),
            "node".into(),
            flag("ordinal", "0".into()),
            flag("control", format!("127.0.0.1:{}", port::CONTROL)),
            flag("local-world-size", spec.devices_per_node.to_string()),
            flag("world-size", world_size(spec).to_string()),
            flag("ring-listen", format!("0.0.0.0:{}", port::RING)),
            flag("cluster-id", names.group_name()),
        ],
        env: environment::node_environment(),
    }
}
