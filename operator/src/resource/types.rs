//! The types of `InferenceCluster`. `kubectl explain` prints the comments of the fields, so each comment states the
//! field's meaning, default, bounds and unit. Relations between fields are CEL rules, and each rule's message names the
//! remedy. An enum holds only values that work today. The operator refuses one value in some specs: Nccl for a group of
//! more than one rank.

use kube::{CustomResource, KubeSchema};
use lockstep_proto::choices::{DType, Quantization};
use lockstep_proto::limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pods::{
    Autoscaling, ClientNetwork, ImagePullPolicy, LocalObject, ModelCache, Placement, ServiceSpec, UpdateStrategy,
    Variable,
};
use super::status::InferenceClusterStatus;
use super::{defaults, schema};

/// InferenceClusterSpec is the desired state of an InferenceCluster: the model, the groups that serve it, and the pods
/// that run them.
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
    printcolumn(name = "Groups", type_ = "string", json_path = ".status.summary.groups", description = "Groups that serve, of the groups that the spec asks for"),
    printcolumn(name = "Ranks", type_ = "string", json_path = ".status.summary.ranks", description = "Ranks that serve, of all ranks of these groups"),
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
        .message("autoscaling.minReplicas is above autoscaling.maxReplicas; lower minReplicas or raise maxReplicas"),
    validation = Rule::new("!has(self.autoscaling) || (self.replicas >= self.autoscaling.minReplicas && self.replicas <= self.autoscaling.maxReplicas)")
        .message("replicas lies outside of autoscaling.minReplicas and maxReplicas; widen the bounds or change replicas")
)]
pub struct InferenceClusterSpec {
    /// Model that the cluster serves.
    pub model: Model,
    /// Transport over which the ranks of a group exchange tensors. Nccl is for GPUs. Ring is TCP, for CPUs. Auto is
    /// Nccl if the pods ask for GPUs, else Ring. The operator refuses Nccl for a group of more than one rank. Default:
    /// Auto.
    #[serde(default)]
    pub backend: Backend,
    /// Number of groups. Each group is a whole copy of the model with its own head. From 0 to 256. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 256), extend("format" = "int32"))]
    pub replicas: u32,
    /// Number of worker pods of each group, beside its head pod. From 0 to 1023. A group may have at most 1024 ranks.
    /// Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = limits::MAX_WORLD_SIZE - 1), extend("format" = "int32"))]
    pub workers: u32,
    /// Number of ranks in each pod of a group, the head pod included. Each rank has one device. From 1 to 64. Default:
    /// 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = limits::MAX_LOCAL_WORLD_SIZE), extend("format" = "int32"))]
    pub devices_per_node: u32,
    /// Division of the model among the ranks of a group.
    #[serde(default)]
    pub parallelism: Parallelism,
    /// Limits of the requests that one group serves.
    #[serde(default)]
    pub serving: Serving,
    /// Image of the agent. At most 512 characters. Default: the agent image that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9][-a-zA-Z0-9_./:@]*$')")
            .message("must be an image reference such as registry.example/lockstep/agent:1.0, without spaces or a scheme")
    )]
    pub image: Option<String>,
    /// Pull policy of the agent's image: Always, IfNotPresent or Never. Default: the policy that Kubernetes chooses by
    /// the image's tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets with credentials for the image's registry, in the cluster's namespace. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObject>,
    /// Environment variables of every container, in the form of a pod's `env`. At most 64. The operator configures
    /// agents by the fields of the spec. Of the agent's own variables only these can be set here: LOCKSTEP_LOG,
    /// LOCKSTEP_ISA, LOCKSTEP_THREADS, LOCKSTEP_MAX_WAITING, LOCKSTEP_DRAIN_TIMEOUT, LOCKSTEP_TOOL_CALL_PARSER and
    /// LOCKSTEP_REASONING_PARSER. A variable replaces a variable of the same name that the operator sets, such as
    /// HF_HOME or LOCKSTEP_DRAIN_TIMEOUT.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub env: Vec<Variable>,
    /// Resource requests and limits of the `rank` container of each pod (ResourceRequirements, stored as given). If
    /// the transport is Nccl, the operator adds `devicesPerNode` of nvidia.com/gpu, unless a number of GPUs is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::overlay")]
    pub resources: Option<Overlay>,
    /// Placement of a group's pods relative to each other.
    #[serde(default)]
    pub placement: Placement,
    /// Service that clients connect to.
    #[serde(default)]
    pub service: ServiceSpec,
    /// Clients that the NetworkPolicy lets connect to the client ports.
    #[serde(default)]
    pub clients: ClientNetwork,
    /// Volume that keeps the downloaded files of an hf:// source. All pods of the cluster share it. Without a cache,
    /// each pod downloads the files for itself, and again each time that the pod is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_cache: Option<ModelCache>,
    /// Bounds of a HorizontalPodAutoscaler that sets `replicas` by the number of waiting requests. Default: no
    /// autoscaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Pace at which a change of the spec reaches the groups.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,
    /// Number of restarts of one container at which the operator stops its group. The number counts all restarts in the
    /// life of the pod. A group stops only while it does not serve and after a run of the container that ended within
    /// 10 minutes. The operator keeps a stopped group as evidence until the spec changes. From 0 to 1000; 0 never stops
    /// a group. Default: 10.
    #[serde(default = "restart_budget")]
    #[schemars(range(min = 0, max = 1000), extend("format" = "int32"))]
    pub restart_budget: u32,
    /// Pod template that is merged into every pod of the cluster (a PodTemplateSpec, stored as given): tolerations,
    /// volumes, nodeSelector, priorityClassName, schedulerName, runtimeClassName and all other fields. Containers are
    /// merged by name; the operator's are `head` and `rank`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::overlay")]
    pub template: Option<Overlay>,
    /// Pod template that is merged into head pods, after `template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::overlay")]
    pub head: Option<Overlay>,
    /// Pod template that is merged into worker pods, after `template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::overlay")]
    pub worker: Option<Overlay>,
}

/// A part of a PodTemplateSpec, kept as the user gave it.
pub type Overlay = serde_json::Map<String, serde_json::Value>;

/// Model is a set of weights and the form in which ranks hold them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.revision) || self.source.startsWith('hf://')")
        .message("revision picks a commit of an hf:// source; remove it"),
    validation = Rule::new("!has(self.tokenSecretRef) || self.source.startsWith('hf://')")
        .message("tokenSecretRef is for hf:// sources; remove it")
)]
pub struct Model {
    /// Source of the weights: hf://org/name, file:///path, pvc://claim/path, oci://image or builtin://tiny. hf:// is a
    /// model of the Hugging Face hub, which every pod downloads. hf://org/name:Q4_K_M is its GGUF file of that
    /// quantization, and hf://org/name/FILE.gguf the GGUF file of that name. file:// is a folder or a GGUF file that every
    /// Kubernetes node has; with `lockstep up`, a relative path starts at the manifest. pvc:// is a PersistentVolumeClaim
    /// in the cluster's namespace, and maybe a folder or a GGUF file in it. oci:// is an image whose files are mounted as
    /// a volume. builtin://tiny is a small model inside the agent. At most 1024 characters. The source cannot be changed.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        validation = Rule::new("self.matches('^(hf|file|pvc|oci|builtin)://')")
            .message("must start with hf://, file://, pvc://, oci:// or builtin://"),
        validation = Rule::new("!self.startsWith('hf://') || (self.matches('^hf://[A-Za-z0-9_]([-A-Za-z0-9_.]{0,94}[A-Za-z0-9_])?((/[A-Za-z0-9_]([-A-Za-z0-9_.]{0,94}[A-Za-z0-9_])?)?(:[-A-Za-z0-9_.]{1,128})?|/[A-Za-z0-9_]([-A-Za-z0-9_.]{0,94}[A-Za-z0-9_])?(/[^./[:cntrl:]][^/[:cntrl:]]*)*/[^./[:cntrl:]][^/[:cntrl:]]*[.][gG][gG][uU][fF])$') && !self.matches('^hf://([^/:]*/)?[^/:]*(--|[.][.])'))")
            .message("must name a model of the hub, hf://meta-llama/Llama-3.1-8B-Instruct, or a GGUF file of it, hf://org/name:Q4_K_M or hf://org/name/FILE.gguf; a branch, git tag or commit goes into revision"),
        validation = Rule::new("!self.startsWith('file://') || size(self) > 7")
            .message("names no folder or file; write file:///path/of/the/model"),
        validation = Rule::new("!self.startsWith('builtin://') || self == 'builtin://tiny'")
            .message("the one model inside the agent is builtin://tiny"),
        validation = Rule::new("!self.startsWith('pvc://') || (self.matches('^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^/]+)*$') && !self.matches('/[.][.]?(/|$)'))")
            .message("must name a claim, and maybe a folder or a GGUF file in it: pvc://models/llama-8b"),
        validation = Rule::new("!self.startsWith('oci://') || self.matches('^oci://[a-z0-9][-a-zA-Z0-9_./:@]*$')")
            .message("must name an image: oci://registry.example/models/llama-8b:1"),
        validation = Rule::new("self == oldSelf")
            .message("a cluster serves one model for life; create another InferenceCluster and move the clients")
    )]
    pub source: String,
    /// Commit, tag or branch of an hf:// source. The head looks a branch up each time that it starts; a commit never
    /// changes. Default: main.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9_+=][-A-Za-z0-9_.+=]*(/[A-Za-z0-9_+=][-A-Za-z0-9_.+=]*)*$') && !self.contains('..')")
            .message("must be a branch, a tag or a commit, such as main")
    )]
    pub revision: Option<String>,
    /// Name of the model in requests. At most 128 characters. The name `default` always works too. Default: the last
    /// part of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9][-A-Za-z0-9_.:/]*$')")
            .message("may have letters, digits and -_.:/ only, and starts with a letter or digit")
    )]
    pub name: Option<String>,
    /// Data type of the weights in memory: f32, bf16, f16, or auto for the data type of the checkpoint. Default: auto.
    #[serde(default)]
    pub dtype: DType,
    /// Format to which ranks quantize matrices while they load them. Default: none. Rows that fill no blocks of 256 numbers go
    /// to a format of 32. tq2_0 and tq1_0 are for models that were trained to three values.
    #[serde(default)]
    pub quantization: Quantization,
    /// Secret with the token for a gated hf:// source, in the cluster's namespace. `lockstep up` takes the token from
    /// HF_TOKEN instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKeyRef>,
}

/// SecretKeyRef refers to one key of a Secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Parallelism divides the model among the ranks of a group.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Parallelism {
    /// Number of pipeline stages. It must divide the number of ranks of a group. The tensor-parallel size is
    /// (1 + workers) * devicesPerNode / pipeline. From 1 to 64. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = limits::MAX_STAGES), extend("format" = "int32"))]
    pub pipeline: u32,
}

impl Default for Parallelism {
    fn default() -> Self {
        defaults::from_fields()
    }
}

/// Serving limits the requests that one group serves.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.maxNumBatchedTokens >= self.maxNumSeqs")
        .message("maxNumBatchedTokens must be at least maxNumSeqs, because each running sequence takes a token of every step; raise maxNumBatchedTokens or lower maxNumSeqs")
)]
pub struct Serving {
    /// Largest number of sequences in one step. From 1 to 4096. Default: 64.
    #[serde(default = "max_num_seqs")]
    #[schemars(range(min = 1, max = limits::MAX_NUM_SEQS), extend("format" = "int32"))]
    pub max_num_seqs: u32,
    /// Largest number of tokens in one step, prompts and answers together. At least maxNumSeqs. From 1 to 1048576.
    /// Default: 4096.
    #[serde(default = "max_num_batched_tokens")]
    #[schemars(range(min = 1, max = limits::MAX_NUM_BATCHED_TOKENS), extend("format" = "int32"))]
    pub max_num_batched_tokens: u32,
    /// Largest number of tokens of a prompt and its answer together. From 1 to 16777216. Default: the model's own
    /// limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = limits::MAX_CONTEXT_LENGTH), extend("format" = "int32"))]
    pub context_length: Option<u32>,
    /// Memory of each rank for keys and values: a share of the free memory (1% to 100%) or an amount in Ki, Mi, Gi or
    /// Ti (e.g. 512Mi, 8Gi). Default: 90%.
    #[serde(default = "kv_cache_memory")]
    #[schemars(length(min = 2, max = 16))]
    #[x_kube(
        validation = Rule::new("self.matches('^([1-9][0-9]?%|100%|[1-9][0-9]{0,9}(Ki|Mi|Gi|Ti))$')")
            .message("must be a share from 1% to 100%, or an amount with its unit: Ki, Mi, Gi or Ti (e.g. 512Mi)")
    )]
    pub kv_cache_memory: String,
    /// Time for which a request waits while its group has lost a rank and forms again. The head then answers the
    /// request with UNAVAILABLE. In seconds or minutes (e.g. 120s, 2m), at most one hour. Default: 120s.
    #[serde(default = "recovery_timeout")]
    #[schemars(length(min = 2, max = 8))]
    #[x_kube(
        validation = Rule::new("self.matches('^[1-9][0-9]{0,3}(s|m)$') && duration(self) <= duration('1h')")
            .message("must be a time in seconds or minutes of at most an hour, e.g. 120s or 2m")
    )]
    pub recovery_timeout: String,
    /// Origins of web pages whose scripts may call the HTTP endpoint (e.g. https://chat.example.com), or `*` for all. At
    /// most 32. Default: pages of the client's own machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(
        validation = Rule::new("self.all(origin, origin == '*' || origin.matches('^https?://[^/, ]+$'))")
            .message("an origin is a scheme and a host without a path, e.g. https://chat.example.com, or *")
    )]
    pub allowed_origins: Vec<Origin>,
    /// Secret with API keys, one a line. A client must send one of them, as `Authorization: Bearer KEY`. The heads read a
    /// changed Secret anew. Default: no keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_keys_secret_ref: Option<SecretKeyRef>,
    /// Secret of type kubernetes.io/tls with the certificate of the client ports. The heads then serve HTTPS and gRPC over
    /// TLS, and read a changed Secret anew. Default: no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_secret_ref: Option<LocalObject>,
}

/// Origin of a web page: a scheme and a host without a path (e.g. https://chat.example.com), or `*` for all.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(transparent)]
pub struct Origin(#[schemars(length(min = 1, max = 256))] pub String);

impl Serving {
    /// Returns true if the client ports speak TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls_secret_ref.is_some()
    }
}

impl Default for Serving {
    fn default() -> Self {
        defaults::from_fields()
    }
}

/// Backend is the transport over which ranks exchange tensors.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    #[default]
    Auto,
    Nccl,
    Ring,
}

fn one() -> u32 {
    1
}

fn restart_budget() -> u32 {
    10
}

fn max_num_seqs() -> u32 {
    limits::DEFAULT_NUM_SEQS
}

fn max_num_batched_tokens() -> u32 {
    limits::DEFAULT_NUM_BATCHED_TOKENS
}

fn kv_cache_memory() -> String {
    format!("{}%", limits::DEFAULT_KV_CACHE_PERCENT)
}

fn recovery_timeout() -> String {
    format!("{}s", limits::DEFAULT_RECOVERY_TIMEOUT_S)
}
