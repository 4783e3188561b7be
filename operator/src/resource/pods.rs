//! The parts of the spec that shape what runs around the model: image, Service, placement, cache, updates.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// ImagePullPolicy as Kubernetes has it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl ImagePullPolicy {
    /// As Kubernetes spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// LocalObject names an object in the cluster's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LocalObject {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Variable is an EnvVar of Kubernetes: a name with a value, or with a source of one.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.value) && has(self.valueFrom))")
        .message("value and valueFrom exclude each other; keep one")
)]
pub struct Variable {
    /// Name of the variable.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z_][A-Za-z0-9_]*$')")
            .message("must be a variable's name: letters, digits and _, not starting with a digit"),
        validation = Rule::new("!(self.startsWith('MISTRALRS_') || self.startsWith('RING_') || (self.startsWith('LOCKSTEP_') && !(self in ['LOCKSTEP_LOG', 'LOCKSTEP_ISA', 'LOCKSTEP_THREADS', 'LOCKSTEP_MAX_WAITING', 'LOCKSTEP_DRAIN_TIMEOUT'])))")
            .message("is set by the operator; use the field of spec that it stands for (LOCKSTEP_LOG, LOCKSTEP_ISA, LOCKSTEP_THREADS, LOCKSTEP_MAX_WAITING and LOCKSTEP_DRAIN_TIMEOUT may be set)")
    )]
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
    /// Where its value comes from (EnvVarSource, stored as given).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::overlay")]
    pub value_from: Option<super::Overlay>,
}

/// Placement of a group's pods.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Spread: on different places where that is possible; SpreadStrictly: a pod waits rather than share a place;
    /// Pack: on the same place where that is possible; Any: wherever the scheduler likes.
    #[serde(default)]
    pub policy: PlacementPolicy,
    /// Node label whose value is a place.
    #[serde(default = "hostname")]
    #[schemars(length(min = 1, max = 253))]
    pub topology_key: String,
}

/// PlacementPolicy says whether the pods of a group seek or avoid each other.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlacementPolicy {
    #[default]
    Spread,
    SpreadStrictly,
    Pack,
    Any,
}

impl Default for Placement {
    fn default() -> Self {
        Self { policy: PlacementPolicy::default(), topology_key: hostname() }
    }
}

/// ServiceSpec shapes the Service of the client endpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// ClusterIP, NodePort or LoadBalancer.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// Annotations of the Service, e.g. for a cloud's load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// ServiceType as Kubernetes has it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

impl ServiceType {
    /// As Kubernetes spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// ClientNetwork says who may reach the client ports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientNetwork {
    /// Anywhere: every address; Namespace: pods of the cluster's own namespace.
    #[serde(default)]
    pub from: ClientOrigin,
}

/// ClientOrigin is where clients are let in from.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientOrigin {
    #[default]
    Anywhere,
    Namespace,
}

/// ModelCache is the claim that pods share.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf")
        .message("a claim keeps its size, class and mode; remove modelCache, delete the claim, and add it again")
)]
pub struct ModelCache {
    /// Size of the volume, e.g. 200Gi.
    #[schemars(length(min = 2, max = 16))]
    #[x_kube(
        validation = Rule::new("self.matches('^[1-9][0-9]{0,9}(Mi|Gi|Ti)$')")
            .message("must be an amount with its unit: Mi, Gi or Ti (e.g. 200Gi)")
    )]
    pub size: String,
    /// Storage class. Default: the one that Kubernetes takes as default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// How pods on several nodes mount it.
    #[serde(default)]
    pub access_mode: AccessMode,
}

/// AccessMode as Kubernetes has it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessMode {
    #[default]
    ReadWriteMany,
    ReadWriteOnce,
}

impl AccessMode {
    /// As Kubernetes spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadWriteMany => "ReadWriteMany",
            Self::ReadWriteOnce => "ReadWriteOnce",
        }
    }
}

/// Autoscaling bounds the number of groups.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// Fewest groups.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256), extend("format" = "int32"))]
    pub min_replicas: u32,
    /// Most groups.
    #[schemars(range(min = 1, max = 256), extend("format" = "int32"))]
    pub max_replicas: u32,
    /// Requests that may wait in each group, on average, before one is added: the heads' metric
    /// lockstep_requests_waiting, which a metrics adapter must offer as a pod metric.
    #[serde(default = "waiting_per_group")]
    #[schemars(range(min = 1, max = 65536), extend("format" = "int32"))]
    pub waiting_per_group: u32,
}

/// UpdateStrategy says how many groups a change may take away at a time.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// Groups that may be out of service at a time because of a change.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256), extend("format" = "int32"))]
    pub max_unavailable: u32,
    /// Groups with a lower index keep what they run: a change is tried on the others first.
    #[serde(default)]
    #[schemars(range(min = 0, max = 256), extend("format" = "int32"))]
    pub partition: u32,
    /// How long a group that is replaced or removed may finish what it has (e.g. 300s, 10m).
    #[serde(default = "drain_timeout")]
    #[schemars(length(min = 2, max = 8))]
    #[x_kube(
        validation = Rule::new("self.matches('^[1-9][0-9]{0,3}(s|m)$') && duration(self) <= duration('1h')")
            .message("must be a time in seconds or minutes of at most an hour, e.g. 300s or 10m")
    )]
    pub drain_timeout: String,
}

impl Default for UpdateStrategy {
    fn default() -> Self {
        Self { max_unavailable: 1, partition: 0, drain_timeout: drain_timeout() }
    }
}

fn one() -> u32 {
    1
}

fn hostname() -> String {
    "kubernetes.io/hostname".into()
}

fn waiting_per_group() -> u32 {
    4
}

fn drain_timeout() -> String {
    "300s".into()
}
