//! From a judged `InferenceCluster` to every pod's command and environment. Pure: the same cluster and the same
//! addresses give the same plan, whether pods or local processes are made of it.

mod addresses;
mod environment;
mod names;
mod show;
mod source;
#[cfg(test)]
mod tests;

pub use addresses::{Addresses, LocalPorts};
pub use names::{ClusterNames, Names};
pub(crate) use show::counted;
pub use show::{ranks, text};
pub use source::{ModelVolume, model_volume};

use lockstep_proto::names::port;
use serde::Serialize;

use crate::resource::{InferenceCluster, InferenceClusterSpec};

/// The agent's program, found on the image's `PATH`.
pub const AGENT: &str = "lockstep-agent";

/// Container of the head's process.
pub const HEAD: &str = "head";
/// Container of a node's ranks.
pub const RANK: &str = "rank";
/// Where a pod finds its certificates, and the group's key.
pub const TLS_DIR: &str = "/etc/lockstep/tls";
pub const GROUP_KEY_FILE: &str = "/etc/lockstep/tls/group.key";
/// Where a pod finds the weights of a `pvc://` or `oci://` source.
pub const MODELS_DIR: &str = "/models";

/// Everything that one cluster runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The cluster's name.
    pub cluster: String,
    /// One per replica, by index.
    pub groups: Vec<GroupPlan>,
}

/// One group: a whole copy of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupPlan {
    pub index: u32,
    /// Ranks in the group.
    pub world_size: u32,
    /// Pipeline stages that they form, each a tensor-parallel group.
    pub pipeline_parallel_size: u32,
    pub head: PodPlan,
    /// By ordinal.
    pub workers: Vec<PodPlan>,
}

impl GroupPlan {
    /// The head, then the workers by ordinal.
    pub fn pods(&self) -> impl Iterator<Item = &PodPlan> {
        std::iter::once(&self.head).chain(&self.workers)
    }
}

/// One node of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPlan {
    pub name: String,
    pub role: Role,
    /// Ranks on this node, in order.
    pub ranks: Vec<u32>,
    /// One process of this machine; in Kubernetes the head pod has two, so that what kills a rank leaves the head.
    pub containers: Vec<ContainerPlan>,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPlan {
    /// `head` or `rank`.
    pub name: &'static str,
    /// Program and arguments.
    pub command: Vec<String>,
    /// In the order of the contract: the group, addresses, service.
    pub env: Vec<EnvVar>,
}

/// A pod's part in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    Head,
    /// With its ordinal.
    Worker(u32),
}

/// One variable of a process's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    pub name: &'static str,
    pub value: String,
    /// Where Kubernetes takes the value from, because pods of one template differ in it: a field of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
}

/// Ranks of one group.
#[must_use]
pub fn world_size(spec: &InferenceClusterSpec) -> u32 {
    (1 + spec.workers) * spec.devices_per_node
}

/// The plan of `cluster` at `addresses`.
#[must_use]
pub fn plan(cluster: &InferenceCluster, addresses: &Addresses) -> Plan {
    let name = cluster.metadata.name.clone().unwrap_or_default();
    let groups = (0..cluster.spec.replicas).map(|index| group(&cluster.spec, &Names::new(&name, index), addresses));
    Plan { groups: groups.collect(), cluster: name }
}

fn group(spec: &InferenceClusterSpec, names: &Names, addresses: &Addresses) -> GroupPlan {
    let pod = |name: String, role: Role| {
        let node = match role {
            Role::Head => 0,
            Role::Worker(ordinal) => ordinal + 1,
        };
        let first = node * spec.devices_per_node;
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

/// Containers of the pods of `role` in Kubernetes, one template for all workers of a group.
#[must_use]
pub fn pod_containers(spec: &InferenceClusterSpec, names: &Names, namespace: &str, role: Role) -> Vec<ContainerPlan> {
    containers(spec, names, &Addresses::Kubernetes { namespace: namespace.into() }, role)
}

fn containers(spec: &InferenceClusterSpec, names: &Names, addresses: &Addresses, role: Role) -> Vec<ContainerPlan> {
    let plain = |name| ContainerPlan {
        name,
        command: vec![AGENT.into(), "plain".into(), "-m".into(), source::seen_by_agent(spec, addresses)],
        env: environment::of(spec, names, addresses, role),
    };
    match (addresses, role) {
        (Addresses::Kubernetes { .. }, Role::Head) => vec![plain(HEAD), own_ranks(spec, names)],
        (_, Role::Head) => vec![plain(HEAD)],
        (_, Role::Worker(_)) => vec![plain(RANK)],
    }
}

/// The head's own ranks, in a container beside it.
fn own_ranks(spec: &InferenceClusterSpec, names: &Names) -> ContainerPlan {
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
        env: environment::of_node(),
    }
}
