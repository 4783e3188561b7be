//! From a judged `InferenceCluster` to every pod's command and environment. Pure: the same cluster and the same
//! addresses give the same plan, whether pods or local processes are made of it.

mod addresses;
mod environment;
mod names;
mod show;
#[cfg(test)]
mod tests;

pub use addresses::{Addresses, LocalPorts};
pub use names::Names;
pub use show::text;

use serde::Serialize;

use crate::resource::{InferenceCluster, InferenceClusterSpec};

/// The agent's program, found on the image's `PATH`.
pub const AGENT: &str = "lockstep-agent";

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

/// One variable of a pod's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnvVar {
    pub name: &'static str,
    pub value: String,
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
            command: vec![AGENT.into(), "plain".into(), "-m".into(), spec.model.source.clone()],
            env: environment::of(spec, names, addresses, role),
        }
    };
    GroupPlan {
        index: names.group(),
        world_size: world_size(spec),
        head: pod(names.head_pod(), Role::Head),
        workers: (0..spec.workers).map(|ordinal| pod(names.worker_pod(ordinal), Role::Worker(ordinal))).collect(),
    }
}
