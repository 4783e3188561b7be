//! The types of `InferenceCluster`. Each field says what it means, its default and its bounds; relations between fields
//! are CEL rules whose messages name the remedy. Enums hold only what works today.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pods::{
    Autoscaling, ClientNetwork, ImagePullPolicy, LocalObject, ModelCache, Placement, ServiceSpec, UpdateStrategy,
    Variable,
};
use super::schema;
use super::status::InferenceClusterStatus;

/// InferenceCluster is one model, sharded over the nodes of one or more groups and served from one endpoint.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "lockstep.dev",
    version = "v1alpha1",
    kind = "InferenceCluster",
    plural = "inferenceclusters",
    shortname = "icl",
    category = "all",
    category = "lockstep",
    namespaced,
    status = "InferenceClusterStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    doc = "InferenceCluster is one model, sharded over the nodes of one or more groups and served from one endpoint.",
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("metadata.name may have at most 40 characters, because the names of pods and Services are made from it; choose a shorter one"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must start with a letter, end with a letter or digit, and have only a-z, 0-9 and '-' between, because Services take it as their name"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Groups", type_ = "string", json_path = ".status.summary.groups", description = "Groups that serve, of those asked for"),
    printcolumn(name = "Ranks", type_ = "string", json_path = ".status.summary.ranks", description = "Ranks that serve, of all"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.summary.message"),
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.model.source", priority = 1),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint", priority = 1),
    printcolumn(name = "Backend", type_ = "string", json_path = ".status.backend", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(1 + self.workers) * self.devicesPerNode <= 1024")
        .message("a group may have at most 1024 ranks, (1 + workers) * devicesPerNode; lower one of them"),
    validation = Rule::new("(1 + self.workers) * self.devicesPerNode % self.parallelism.pipeline == 0")
        .message("parallelism.pipeline must divide the ranks of a group, (1 + workers) * devicesPerNode; change one of the three"),
    validation = Rule::new("(1 + self.workers) * self.devicesPerNode % self.parallelism.pipeline != 0 || (1 + self.workers) % self.parallelism.pipeline == 0 || self.parallelism.pipeline % (1 + self.workers) == 0")
        .message("the ranks of a pipeline stage, (1 + workers) * devicesPerNode / pipeline, must be whole nodes or share one node evenly; choose a parallelism.pipeline that divides 1 + workers, or that 1 + workers divides"),
    validation = Rule::new("!has(self.autoscaling) || self.autoscaling.minReplicas <= self.autoscaling.maxReplicas")
        .message("autoscaling.minReplicas is above autoscaling.maxReplicas; lower the one or raise the other"),
    validation = Rule::new("!has(self.autoscaling) || (self.replicas >= self.autoscaling.minReplicas && self.replicas <= self.autoscaling.maxReplicas)")
        .message("replicas lies outside of autoscaling.minReplicas and maxReplicas; widen the bounds or change replicas")
)]
pub struct InferenceClusterSpec {
    /// What is served.
    pub model: Model,
    /// How ranks exchange tensors: Nccl (GPUs), Ring (TCP; CPU and Metal), or Auto: Nccl if the pods ask for GPUs, else
    /// Ring.
    #[serde(default)]
    pub backend: Backend,
    /// Groups, each a whole copy of the model with its own head.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 256), extend("format" = "int32"))]
    pub replicas: u32,
    /// Worker nodes of each group, beside its head.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1023), extend("format" = "int32"))]
    pub workers: u32,
    /// Ranks on each node, the head's included: one per device.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64), extend("format" = "int32"))]
    pub devices_per_node: u32,
    /// How the ranks of a group divide the model.
    #[serde(default)]
    pub parallelism: Parallelism,
    /// Limits of one group's service.
    #[serde(default)]
    pub serving: Serving,
    /// Image of the agent. Default: the one that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9][-a-zA-Z0-9_./:@]*$')")
            .message("must be an image reference such as registry.example/lockstep/agent:1.0, without spaces or a scheme")
    )]
    pub image: Option<String>,
    /// When nodes pull the image: Always, IfNotPresent or Never. Default: Kubernetes' own rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets with credentials for the image's registry, in the cluster's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObject>,
    /// Variables for every container, in Kubernetes' own form. The operator's own variables cannot be set here: use the
    /// field that each stands for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub env: Vec<Variable>,
    /// Resources of each node's `rank` container (ResourceRequirements, stored as given). GPUs need not be asked for
    /// where `backend` is Nccl: each node then asks for `devicesPerNode` of nvidia.com/gpu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::overlay")]
    pub resources: Option<Overlay>,
    /// How workers are placed beside each other.
    #[serde(default)]
    pub placement: Placement,
    /// The Service that clients use.
    #[serde(default)]
    pub service: ServiceSpec,
    /// Who may reach the client ports, as a NetworkPolicy.
    #[serde(default)]
    pub clients: ClientNetwork,
    /// A volume that keeps what was downloaded (an hf:// source), shared by all pods of the cluster. Without one each pod
    /// downloads for itself, and again when it starts anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_cache: Option<ModelCache>,
    /// Bounds between which a HorizontalPodAutoscaler sets `replicas`, by requests that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// How a change reaches the groups.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,
    /// Restarts of one container without its rank serving in between, after which the group is stopped and kept as
    /// evidence until the spec changes. 0: never stopped.
    #[serde(default = "restart_budget")]
    #[schemars(range(min = 0, max = 1000), extend("format" = "int32"))]
    pub restart_budget: u32,
    /// Pod template laid over every pod of the cluster (a PodTemplateSpec, stored as given): tolerations, volumes,
    /// nodeSelector, priorityClassName, schedulerName, runtimeClassName and all else. Containers are merged by name: `head` and
    /// `rank`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::overlay")]
    pub template: Option<Overlay>,
    /// Pod template laid over head pods, after `template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::overlay")]
    pub head: Option<Overlay>,
    /// Pod template laid over worker pods, after `template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::overlay")]
    pub worker: Option<Overlay>,
}

/// A part of a PodTemplateSpec, kept as it was given.
pub type Overlay = serde_json::Map<String, serde_json::Value>;

/// Model says which weights, in which form.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.revision) || self.source.startsWith('hf://')")
        .message("revision picks a commit of an hf:// source; remove it"),
    validation = Rule::new("!has(self.tokenSecretRef) || self.source.startsWith('hf://')")
        .message("tokenSecretRef is for hf:// sources; remove it")
)]
pub struct Model {
    /// Where the weights are: hf://org/name (a model of the hub, which every node downloads), file:///path/of/a/folder (on
    /// every node; relative to the manifest with `lockstep up`), pvc://claim/folder (a claim in the cluster's namespace),
    /// oci://image (its files, mounted as a volume) or builtin://tiny (a small model inside the agent). Fixed for the life
    /// of the cluster.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("self.matches('^(hf|file|pvc|oci|builtin)://')")
            .message("must start with hf://, file://, pvc://, oci:// or builtin://"),
        validation = Rule::new("!self.startsWith('hf://') || (self.matches('^hf://[A-Za-z0-9_]([-A-Za-z0-9_.]{0,94}[A-Za-z0-9_])?(/[A-Za-z0-9_]([-A-Za-z0-9_.]{0,94}[A-Za-z0-9_])?)?$') && !self.contains('--') && !self.contains('..'))")
            .message("must name a model of the hub: hf://meta-llama/Llama-3.1-8B-Instruct; a branch, tag or commit goes into revision"),
        validation = Rule::new("!self.startsWith('file://') || size(self) > 7")
            .message("names no folder; write file:///path/of/the/model"),
        validation = Rule::new("!self.startsWith('builtin://') || self == 'builtin://tiny'")
            .message("the one model inside the agent is builtin://tiny"),
        validation = Rule::new("!self.startsWith('pvc://') || self.matches('^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^/]+)*$')")
            .message("must name a claim and maybe a folder in it: pvc://models/llama-8b"),
        validation = Rule::new("!self.startsWith('oci://') || self.matches('^oci://[a-z0-9][-a-zA-Z0-9_./:@]*$')")
            .message("must name an image: oci://registry.example/models/llama-8b:1"),
        validation = Rule::new("self == oldSelf")
            .message("a cluster serves one model for life; create another InferenceCluster and move the clients")
    )]
    pub source: String,
    /// Commit, tag or branch of an hf:// source. Default: main. A branch is looked up each time that a head starts; a
    /// commit stays what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9_+=][-A-Za-z0-9_.+=]*(/[A-Za-z0-9_+=][-A-Za-z0-9_.+=]*)*$') && !self.contains('..')")
            .message("must be a branch, a tag or a commit, such as main")
    )]
    pub revision: Option<String>,
    /// What clients call the model. Default: the last part of the source; `default` always works too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9][-A-Za-z0-9_.:/]*$')")
            .message("may have letters, digits and -_.:/ only, and starts with a letter or digit")
    )]
    pub name: Option<String>,
    /// Type of the weights in memory; auto is the checkpoint's own.
    #[serde(default)]
    pub dtype: DType,
    /// Format that matrices are quantized to while they are loaded.
    #[serde(default)]
    pub quantization: Quantization,
    /// Secret with the token for a gated hf:// source, in the cluster's namespace; `lockstep up` takes HF_TOKEN instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKeyRef>,
}

/// SecretKeyRef names one key of a Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Parallelism divides the model among the ranks of a group.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Parallelism {
    /// Pipeline stages. The tensor-parallel size follows: (1 + workers) * devicesPerNode / pipeline.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64), extend("format" = "int32"))]
    pub pipeline: u32,
}

impl Default for Parallelism {
    fn default() -> Self {
        Self { pipeline: 1 }
    }
}

/// Serving bounds what one group takes on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.maxNumBatchedTokens >= self.maxNumSeqs")
        .message("maxNumBatchedTokens must be at least maxNumSeqs, because each running sequence takes a token of every step; raise the one or lower the other")
)]
pub struct Serving {
    /// Most sequences in one step.
    #[serde(default = "max_num_seqs")]
    #[schemars(range(min = 1, max = 4096), extend("format" = "int32"))]
    pub max_num_seqs: u32,
    /// Most tokens in one step, prompts and answers together.
    #[serde(default = "max_num_batched_tokens")]
    #[schemars(range(min = 1, max = 1_048_576), extend("format" = "int32"))]
    pub max_num_batched_tokens: u32,
    /// Longest prompt and answer together, in tokens. Default: the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216), extend("format" = "int32"))]
    pub context_length: Option<u32>,
    /// Memory of each rank for keys and values: a share of what is free (90%) or an amount (512Mi, 8Gi).
    #[serde(default = "kv_cache_memory")]
    #[schemars(length(min = 2, max = 16))]
    #[x_kube(
        validation = Rule::new("self.matches('^([1-9][0-9]?%|100%|[1-9][0-9]{0,9}(Ki|Mi|Gi|Ti))$')")
            .message("must be a share from 1% to 100%, or an amount with its unit: Ki, Mi, Gi or Ti (e.g. 512Mi)")
    )]
    pub kv_cache_memory: String,
    /// How long a request waits for a group that forms again after losing a rank (e.g. 120s, 2m), before it is
    /// answered UNAVAILABLE.
    #[serde(default = "recovery_timeout")]
    #[schemars(length(min = 2, max = 8))]
    #[x_kube(
        validation = Rule::new("self.matches('^[1-9][0-9]{0,3}(s|m)$') && duration(self) <= duration('1h')")
            .message("must be a time in seconds or minutes of at most an hour, e.g. 120s or 2m")
    )]
    pub recovery_timeout: String,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            max_num_seqs: max_num_seqs(),
            max_num_batched_tokens: max_num_batched_tokens(),
            context_length: None,
            kv_cache_memory: kv_cache_memory(),
            recovery_timeout: recovery_timeout(),
        }
    }
}

/// Backend is the transport of the collectives.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    #[default]
    Auto,
    Nccl,
    Ring,
}

/// DType is the type of weights in memory.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    #[default]
    Auto,
    F32,
    Bf16,
    F16,
}

impl DType {
    /// As the agent's environment spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// Quantization of weights while loading.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantization {
    #[default]
    #[serde(rename = "none")]
    None,
    #[serde(rename = "q8_0")]
    Q8_0,
    #[serde(rename = "q4_k")]
    Q4K,
}

impl Quantization {
    /// As the agent's environment spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        }
    }
}

fn one() -> u32 {
    1
}

fn restart_budget() -> u32 {
    10
}

fn max_num_seqs() -> u32 {
    64
}

fn max_num_batched_tokens() -> u32 {
    4096
}

fn kv_cache_memory() -> String {
    "90%".into()
}

fn recovery_timeout() -> String {
    "120s".into()
}
