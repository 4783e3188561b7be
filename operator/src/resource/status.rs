//! What the operator tells of a cluster. Written by the operator alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Types of conditions.
pub mod condition {
    /// Every group asked for serves.
    pub const READY: &str = "Ready";
    /// Something is being brought to what the spec asks for.
    pub const PROGRESSING: &str = "Progressing";
    /// Something is wrong that was not asked for.
    pub const DEGRADED: &str = "Degraded";
}

/// Most ranks that a status tells one by one, groups that do not serve first: the object must stay small.
pub const MAX_RANKS: usize = 1024;

/// InferenceClusterStatus is what is true of the cluster, as last observed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InferenceClusterStatus {
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Progressing and Degraded, each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Groups that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Groups that serve.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Groups that run what the spec asks for.
    #[serde(default)]
    pub updated_replicas: i32,
    /// Selects the heads, one pod for each group (for autoscalers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Where clients reach the model inside Kubernetes, `host:port` of gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The same for OpenAI-style HTTP, a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_endpoint: Option<String>,
    /// Collectives in use: Nccl or Ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The model, as its head read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelFacts>,
    /// One line's worth, for tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Each group, by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["index"]))]
    pub groups: Vec<GroupStatus>,
}

/// Summary holds what the columns of `kubectl get` show.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Groups that serve, of those asked for: 1/2.
    pub groups: String,
    /// Ranks that serve, of all: 3/4.
    pub ranks: String,
    /// Why it does not serve, in words; empty when it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// ModelFacts is what the weights turned out to be.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelFacts {
    /// Name that clients use.
    pub name: String,
    /// Architecture, as its config names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// Number of parameters.
    #[serde(default)]
    pub parameters: i64,
    /// Type of the weights in memory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dtype: String,
    /// Longest prompt and answer together, in tokens.
    #[serde(default)]
    pub context_length: i64,
}

/// GroupStatus is one copy of the model.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GroupStatus {
    /// Index of the group, from 0.
    pub index: i32,
    /// Every rank serves and a token came through.
    #[serde(default)]
    pub ready: bool,
    /// The head takes requests.
    #[serde(default)]
    pub accepting: bool,
    /// Pending, Creating, Forming, Serving, Recovering, Draining, Updating or Stopped.
    #[serde(default)]
    pub phase: GroupPhase,
    /// Why it does not serve, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What the group was made from: it changes with what the spec means.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Number of the group's formation; grows with each rank lost and replaced.
    #[serde(default)]
    pub epoch: i64,
    /// Times that the group went on after losing a rank.
    #[serde(default)]
    pub recoveries: i64,
    /// Ranks that serve.
    #[serde(default)]
    pub serving_ranks: i32,
    /// Ranks in all.
    #[serde(default)]
    pub world_size: i32,
    /// Each rank, by number. Left out for groups that serve where a cluster has more than a thousand ranks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["rank"]))]
    pub ranks: Vec<RankStatus>,
    /// The last crash of each pod that had one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod", "container"]))]
    pub crashes: Vec<Crash>,
    /// Set when the group was stopped because its restart budget is spent: the generation of the spec that it failed at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at_generation: Option<i64>,
    /// When the group began to drain, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_since: Option<Time>,
}

/// GroupPhase is what a group is doing.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupPhase {
    /// Waits for the groups before it to be scheduled.
    #[default]
    Pending,
    /// Its pods are being scheduled and started.
    Creating,
    /// Its ranks load and join.
    Forming,
    /// It serves.
    Serving,
    /// It lost a rank and goes on when that is replaced.
    Recovering,
    /// It finishes what it has and then goes.
    Draining,
    /// Its pods are replaced by ones of the new spec.
    Updating,
    /// Its restart budget is spent.
    Stopped,
}

impl GroupPhase {
    /// The phase's name.
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

/// RankStatus is one shard of the model.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RankStatus {
    /// Rank, from 0.
    pub rank: i32,
    /// Pod that it runs in.
    pub pod: String,
    /// Node that the pod runs on, once scheduled.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Scheduling, Pulling, Starting, Downloading, Loading, Forming, Warmup, Serving or Lost.
    pub phase: String,
    /// The scheduler's, the kubelet's or the rank's own words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Share of the weights that it has read, in steps of 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent_loaded: Option<i32>,
    /// Bytes of weights that it reads in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<i64>,
    /// Estimate of the seconds until its weights are loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<i64>,
    /// Times that its container was started again.
    #[serde(default)]
    pub restarts: i32,
}

/// Crash is the last unwanted end of a container.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Crash {
    /// The pod.
    pub pod: String,
    /// The container in it: head or rank.
    pub container: String,
    /// Exit code.
    pub exit_code: i32,
    /// Kubernetes' word: Error, OOMKilled, ….
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Node that it ran on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// Restarts of the container so far.
    #[serde(default)]
    pub restarts: i32,
    /// Its last log lines.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}
