//! The status of an `InferenceCluster`. Only the operator writes it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Types of conditions.
pub mod condition {
    /// True if every group that the spec asks for serves.
    pub const READY: &str = "Ready";
    /// True while the operator brings objects to the state that the spec asks for.
    pub const PROGRESSING: &str = "Progressing";
    /// True if a fault keeps the cluster from the state that the spec asks for.
    pub const DEGRADED: &str = "Degraded";
}

/// Largest number of ranks that a status lists one by one. Groups that do not serve come first. The limit keeps the
/// object small.
pub const MAX_RANKS: usize = 1024;

/// InferenceClusterStatus is the last observed state of the cluster.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InferenceClusterStatus {
    /// Generation of the spec that the operator observed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions of the cluster: Ready, Progressing and Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Number of groups that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Number of groups that serve.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Number of groups whose pods are those that the spec asks for.
    #[serde(default)]
    pub updated_replicas: i32,
    /// Label selector of the head pods, one for each group. Autoscalers use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Address of the gRPC service inside Kubernetes, as `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// URL of the OpenAI-compatible HTTP service inside Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_endpoint: Option<String>,
    /// Transport in use between ranks: Nccl or Ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Facts that a head read from the model's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelFacts>,
    /// Texts for the columns of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Status of each group, by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["index"]))]
    pub groups: Vec<GroupStatus>,
}

/// Summary holds the texts that the columns of `kubectl get` show.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Groups that serve, of the groups that the spec asks for, e.g. 1/2.
    pub groups: String,
    /// Ranks that serve, of all ranks of these groups, e.g. 3/4.
    pub ranks: String,
    /// Reason why the cluster does not serve; empty while it serves.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// ModelFacts describes the model that a head read.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelFacts {
    /// Name of the model in requests.
    pub name: String,
    /// Name of the architecture in the model's config.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// Number of parameters.
    #[serde(default)]
    pub parameters: i64,
    /// Data type of the weights in memory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dtype: String,
    /// Largest number of tokens of a prompt and its answer together.
    #[serde(default)]
    pub context_length: i64,
}

/// GroupStatus is the status of one group, a whole copy of the model.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Index of the group, from 0.
    pub index: i32,
    /// True if every rank of the group serves and a test request got a token.
    #[serde(default)]
    pub ready: bool,
    /// True if the head accepts requests.
    #[serde(default)]
    pub accepting: bool,
    /// Phase of the group. Pending waits until the groups before it are scheduled. Creating starts its pods. Forming
    /// loads the weights and connects the ranks. Serving serves. Recovering served before, and forms again when all of
    /// its ranks are there. Draining finishes its requests before it goes. Updating replaces its pods, or
    /// restarts its head. Stopped spent its restart budget.
    #[serde(default)]
    pub phase: GroupPhase,
    /// Reason why the group does not serve; empty while it serves.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Hash of the fields of the spec that shape the group's pods.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Number of the group's current epoch. It grows each time that the ranks connect anew, as after the loss of a
    /// rank.
    #[serde(default)]
    pub epoch: i64,
    /// Number of epochs that failed after they had formed, since the group's head started. An ordered departure of a
    /// rank does not count.
    #[serde(default)]
    pub recoveries: i64,
    /// Number of ranks that serve.
    #[serde(default)]
    pub serving_ranks: i32,
    /// Number of ranks of the group.
    #[serde(default)]
    pub world_size: i32,
    /// Status of each rank, by rank. A cluster's status lists at most 1024 ranks. The ranks of serving groups are left
    /// out first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["rank"]))]
    pub ranks: Vec<RankStatus>,
    /// Last crash of each container that crashed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod", "container"]))]
    pub crashes: Vec<Crash>,
    /// Generation of the spec at which the operator stopped the group because its restart budget was spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at_generation: Option<i64>,
    /// Time at which the group began to drain; set while it drains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_since: Option<Time>,
}

/// GroupPhase is the phase of a group.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupPhase {
    /// The group waits until the groups before it are scheduled.
    #[default]
    Pending,
    /// Kubernetes schedules and starts the group's pods.
    Creating,
    /// The group's ranks load weights and connect.
    Forming,
    /// The group serves.
    Serving,
    /// The group served before, and forms again when all of its ranks are there.
    Recovering,
    /// The group finishes its requests, and is then replaced or removed.
    Draining,
    /// The operator replaces the group's pods, or restarts its head.
    Updating,
    /// The operator stopped the group because its restart budget is spent.
    Stopped,
}

impl GroupPhase {
    /// Returns the phase's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Creating => "Creating",
            Self::Forming => "Forming",
            Self::Serving => "Serving",
            Self::Recovering => "Recovering",
            Self::Draining => "Draining",
            Self::Updating => "Updating",
            Self::Stopped => "Stopped",
        }
    }
}

/// RankStatus is the status of one rank, which holds one shard of the model.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RankStatus {
    /// Number of the rank in its group, from 0.
    pub rank: i32,
    /// Pod that the rank runs in.
    pub pod: String,
    /// Kubernetes node that the pod runs on, once scheduled.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Phase of the rank: Scheduling, Pulling, Starting, Downloading, Loading, Forming, Warmup, Serving or Lost.
    pub phase: String,
    /// Message of the scheduler, the kubelet or the rank.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Share of the weights that the rank has loaded, in percent, in steps of 5. In the phase Downloading: share of the
    /// model's files that are fetched. Absent in other phases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent_loaded: Option<i32>,
    /// Size of the rank's weights, in bytes. In the phase Downloading: size of the model's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<i64>,
    /// Estimated time until the phase Loading or Downloading ends, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<i64>,
    /// Number of restarts of the rank's container in the life of the pod.
    #[serde(default)]
    pub restarts: i32,
}

/// Crash is the last crash of a container.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Crash {
    /// Pod of the container.
    pub pod: String,
    /// Name of the container. head and rank are the agent's.
    pub container: String,
    /// Exit code of the container.
    pub exit_code: i32,
    /// Reason that Kubernetes gives: Error, OOMKilled, ….
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Kubernetes node that the container ran on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Time at which the container ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// Number of restarts of the container in the life of the pod.
    #[serde(default)]
    pub restarts: i32,
    /// Last lines of the container's log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}
