//! The parts of the spec that shape the objects around the model: image, Service, placement, cache, updates.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::defaults;

/// ImagePullPolicy is the pull policy of a container's image, as in Kubernetes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl ImagePullPolicy {
    /// Returns the value in Kubernetes' objects.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// LocalObject refers to an object in the cluster's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LocalObject {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Variable is an EnvVar of Kubernetes: a name with a value, or with a source of the value.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.value) && has(self.valueFrom))")
        .message("value and valueFrom exclude each other; keep one")
)]
pub struct Variable {
    /// Name of the variable. At most 128 characters.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z_][A-Za-z0-9_]*$')")
            .message("must be a variable's name: letters, digits and _, not starting with a digit"),
        validation = Rule::new("!(self.startsWith('MISTRALRS_') || self.startsWith('RING_') || (self.startsWith('LOCKSTEP_') && !(self in ['LOCKSTEP_LOG', 'LOCKSTEP_ISA', 'LOCKSTEP_THREADS', 'LOCKSTEP_MAX_WAITING', 'LOCKSTEP_DRAIN_TIMEOUT', 'LOCKSTEP_TOOL_CALL_PARSER', 'LOCKSTEP_REASONING_PARSER'])))")
            .message("cannot be set here, because the operator configures agents by the fields of spec; remove it, and use the field if there is one (of all names with MISTRALRS_, RING_ or LOCKSTEP_ in front, only LOCKSTEP_LOG, LOCKSTEP_ISA, LOCKSTEP_THREADS, LOCKSTEP_MAX_WAITING, LOCKSTEP_DRAIN_TIMEOUT, LOCKSTEP_TOOL_CALL_PARSER and LOCKSTEP_REASONING_PARSER may be set)")
    )]
    pub name: String,
    /// Value of the variable. At most 4096 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub value: Option<String>,
    /// Source of the value (EnvVarSource, stored as given). It excludes `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::overlay")]
    pub value_from: Option<super::Overlay>,
}

/// Placement places the pods of a group relative to each other.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Placement policy. A place is a set of Kubernetes nodes with one value of `topologyKey`. Spread puts the pods of
    /// a group in different places if possible. SpreadStrictly keeps a pod waiting rather than let two pods share a
    /// place. Pack puts the pods in the same place if possible. Any leaves the choice to the scheduler. With every
    /// policy, pods prefer nodes without pods of the cluster's other groups. Default: Spread.
    #[serde(default)]
    pub policy: PlacementPolicy,
    /// Label of Kubernetes nodes whose values are the places. Default: kubernetes.io/hostname.
    #[serde(default = "hostname")]
    #[schemars(length(min = 1, max = 253))]
    pub topology_key: String,
}

/// PlacementPolicy makes the pods of a group seek or avoid each other.
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
        defaults::from_fields()
    }
}

/// ServiceSpec shapes the Service that clients connect to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Type of the Service: ClusterIP, NodePort or LoadBalancer. Default: ClusterIP.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// Annotations of the Service, e.g. for a cloud's load balancer. At most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// ServiceType is the type of a Service, as in Kubernetes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

impl ServiceType {
    /// Returns the value in Kubernetes' objects.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// ClientNetwork chooses the clients that may connect to the client ports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientNetwork {
    /// Origin of clients. Anywhere lets every address connect. Namespace lets pods of the cluster's namespace connect.
    /// Default: Anywhere.
    #[serde(default)]
    pub from: ClientOrigin,
}

/// ClientOrigin is the set of addresses from which clients may connect.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientOrigin {
    #[default]
    Anywhere,
    Namespace,
}

/// ModelCache is a PersistentVolumeClaim that all pods of the cluster share.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf")
        .message("a claim keeps its size, class and mode; remove modelCache, delete the claim, and add it again")
)]
pub struct ModelCache {
    /// Size of the volume in Mi, Gi or Ti, e.g. 200Gi.
    #[schemars(length(min = 2, max = 16))]
    #[x_kube(
        validation = Rule::new("self.matches('^[1-9][0-9]{0,9}(Mi|Gi|Ti)$')")
            .message("must be an amount with its unit: Mi, Gi or Ti (e.g. 200Gi)")
    )]
    pub size: String,
    /// Name of the StorageClass. Default: the default StorageClass of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// Access mode of the claim. ReadWriteMany lets pods on several Kubernetes nodes mount the volume. ReadWriteOnce
    /// lets pods of one Kubernetes node mount the volume. Default: ReadWriteMany.
    #[serde(default)]
    pub access_mode: AccessMode,
}

/// AccessMode is the access mode of a PersistentVolumeClaim, as in Kubernetes.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessMode {
    #[default]
    ReadWriteMany,
    ReadWriteOnce,
}

impl AccessMode {
    /// Returns the value in Kubernetes' objects.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadWriteMany => "ReadWriteMany",
            Self::ReadWriteOnce => "ReadWriteOnce",
        }
    }
}

/// Autoscaling configures a HorizontalPodAutoscaler that sets the number of groups.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// Smallest number of groups. From 1 to 256. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256), extend("format" = "int32"))]
    pub min_replicas: u32,
    /// Largest number of groups. From 1 to 256, and at least minReplicas.
    #[schemars(range(min = 1, max = 256), extend("format" = "int32"))]
    pub max_replicas: u32,
    /// Average number of waiting requests for each group above which the autoscaler adds groups. The heads export this
    /// number as lockstep_requests_waiting, and a metrics adapter must offer it as a pod metric. From 1 to 65536.
    /// Default: 4.
    #[serde(default = "waiting_per_group")]
    #[schemars(range(min = 1, max = 65536), extend("format" = "int32"))]
    pub waiting_per_group: u32,
}

/// UpdateStrategy limits how a change of the spec reaches the groups.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// Largest number of groups that may be out of service at a time because of a change. From 1 to 256. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256), extend("format" = "int32"))]
    pub max_unavailable: u32,
    /// Index below which groups keep their pods. A change reaches only the groups with this index or a higher one, so
    /// that it can be tried there first. From 0 to 256. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 256), extend("format" = "int32"))]
    pub partition: u32,
    /// Time for which a group that is replaced or removed may finish its requests. In seconds or minutes (e.g. 300s,
    /// 10m), at most one hour. Default: 300s.
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
        defaults::from_fields()
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
