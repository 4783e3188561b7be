//! One good and one bad object for each rule of the CRD. Each is a change of [`base_manifest`]: mappings merge, and
//! `null` removes a field.

use lockstep_tests::manifests;

/// Returns the object that the cases change.
pub fn base_manifest() -> String {
    manifests::cluster("tiny", "{ model: { source: builtin://tiny } }")
}

/// Rule, an object on either side of it, and the message for the bad object.
pub struct Case {
    pub name: &'static str,
    /// Object that is stored already, for rules about changes.
    pub old: Option<&'static str>,
    pub good: &'static str,
    pub bad: &'static str,
    /// Field that the message for the bad object names; empty: the whole object.
    pub field: &'static str,
    pub message: &'static str,
}

const fn case(
    name: &'static str,
    good: &'static str,
    bad: &'static str,
    field: &'static str,
    message: &'static str,
) -> Case {
    Case { name, old: None, good, bad, field, message }
}

/// All cases. Other tests try the bounds of single fields, which they read from the schema.
pub const CASES: &[Case] = &[
    case(
        "the longest name",
        "metadata: { name: a23456789-123456789-123456789-123456789 }",
        "metadata: { name: a23456789-123456789-123456789-123456789-1 }",
        "",
        "at most 40 characters",
    ),
    case(
        "a name that a Service can have",
        "metadata: { name: a-1 }",
        "metadata: { name: 1-a }",
        "",
        "must start with a letter",
    ),
    case(
        "a name without dots",
        "metadata: { name: ab }",
        "metadata: { name: a.b }",
        "",
        "Services take it as their name",
    ),
    case(
        "a source of a known kind",
        "spec: { model: { source: file:///models/llama } }",
        "spec: { model: { source: 's3://models/llama' } }",
        "spec.model.source",
        "must start with hf://, file://, pvc://, oci:// or builtin://",
    ),
    case(
        "a model of the hub",
        "spec: { model: { source: hf://meta-llama/Llama-3.1-8B } }",
        "spec: { model: { source: hf://meta-llama/Llama-3.1-8B/main } }",
        "spec.model.source",
        "must name a model of the hub",
    ),
    case(
        "a tag of it",
        "spec: { model: { source: 'hf://org/name:UD-Q4_K_XL', revision: main } }",
        "spec: { model: { source: 'hf://org/name:Q4 K' } }",
        "spec.model.source",
        "must name a model of the hub",
    ),
    case(
        "a tag of an old model",
        "spec: { model: { source: 'hf://gpt2:m.gguf' } }",
        "spec: { model: { source: 'hf://gpt2:' } }",
        "spec.model.source",
        "must name a model of the hub",
    ),
    case(
        "a GGUF file of it",
        "spec: { model: { source: 'hf://org/name/q 8/m--x..y-00001-of-00002.GGUF' } }",
        "spec: { model: { source: hf://org/na--me/m.gguf } }",
        "spec.model.source",
        "must name a model of the hub",
    ),
    case(
        "a GGUF file inside it",
        "spec: { model: { source: hf://org/name/m.gguf } }",
        "spec: { model: { source: hf://org/name/../m.gguf } }",
        "spec.model.source",
        "hf://org/name/FILE.gguf",
    ),
    case(
        "a revision of it",
        "spec: { model: { source: hf://gpt2, revision: refs/pr/1, tokenSecretRef: { name: hf, key: token } } }",
        "spec: { model: { source: hf://gpt2, revision: ../main } }",
        "spec.model.revision",
        "must be a branch, a tag or a commit",
    ),
    case(
        "a folder",
        "spec: { model: { source: file://m } }",
        "spec: { model: { source: file:// } }",
        "spec.model.source",
        "write file:///path/of/the/model",
    ),
    case(
        "the model inside",
        "spec: { model: { source: builtin://tiny } }",
        "spec: { model: { source: builtin://small } }",
        "spec.model.source",
        "the one model inside the agent",
    ),
    case(
        "a claim",
        "spec: { model: { source: pvc://models.x/llama-8b/v1 } }",
        "spec: { model: { source: pvc:///llama-8b } }",
        "spec.model.source",
        "must name a claim",
    ),
    case(
        "a GGUF file of a claim",
        "spec: { model: { source: pvc://models/llama/m..x.gguf } }",
        "spec: { model: { source: pvc://models/../m.gguf } }",
        "spec.model.source",
        "a folder or a GGUF file in it",
    ),
    case(
        "an image of files",
        "spec: { model: { source: 'oci://registry.example:5000/m@sha256:00' } }",
        "spec: { model: { source: 'oci://registry example' } }",
        "spec.model.source",
        "must name an image",
    ),
    Case {
        name: "a model for life",
        old: Some("spec: { model: { source: file:///a } }"),
        good: "spec: { model: { source: file:///a, name: other, dtype: f32 }, workers: 3 }",
        bad: "spec: { model: { source: file:///b } }",
        field: "spec.model.source",
        message: "one model for life",
    },
    case(
        "a revision",
        "spec: { model: { revision: null } }",
        "spec: { model: { revision: main } }",
        "spec.model",
        "revision picks a commit of an hf:// source",
    ),
    case(
        "a token",
        "spec: { model: { tokenSecretRef: null } }",
        "spec: { model: { tokenSecretRef: { name: hf, key: token } } }",
        "spec.model",
        "tokenSecretRef is for hf:// sources",
    ),
    case(
        "a model's name",
        "spec: { model: { name: 'org/llama-3.1_8b:q4' } }",
        "spec: { model: { name: 'llama 8b' } }",
        "spec.model.name",
        "starts with a letter or digit",
    ),
    case(
        "an image of the agent",
        "spec: { image: 'registry.example:5000/lockstep/agent:1.0' }",
        "spec: { image: 'https://registry.example/agent latest' }",
        "spec.image",
        "must be an image reference",
    ),
    case(
        "a variable's name",
        "spec: { env: [{ name: _A1, value: x }] }",
        "spec: { env: [{ name: A-1, value: x }] }",
        "spec.env[0].name",
        "must be a variable's name",
    ),
    case(
        "variables that users set",
        "spec: { env: [{ name: LOCKSTEP_LOG, value: debug }, { name: LOCKSTEP_TOOL_CALL_PARSER, value: hermes }] }",
        "spec: { env: [{ name: A }, { name: LOCKSTEP_TLS_DIR, value: /tmp }] }",
        "spec.env[1].name",
        "the operator configures agents by the fields of spec",
    ),
    case(
        "variables of the group",
        "spec: { env: [{ name: RINGS, value: '9' }] }",
        "spec: { env: [{ name: MISTRALRS_MN_WORKER_ID, value: '9' }] }",
        "spec.env[0].name",
        "use the field if there is one",
    ),
    case(
        "a value from one place",
        "spec: { env: [{ name: A, valueFrom: { fieldRef: { fieldPath: status.podIP } } }] }",
        "spec: { env: [{ name: A, value: x, valueFrom: { fieldRef: { fieldPath: status.podIP } } }] }",
        "spec.env[0]",
        "exclude each other",
    ),
    case(
        "stages of whole nodes",
        "spec: { workers: 3, devicesPerNode: 2, parallelism: { pipeline: 2 } }",
        "spec: { workers: 2, devicesPerNode: 2, parallelism: { pipeline: 2 } }",
        "spec",
        "must be whole nodes or share one node evenly",
    ),
    case(
        "stages that divide the ranks",
        "spec: { workers: 2, parallelism: { pipeline: 3 } }",
        "spec: { workers: 2, parallelism: { pipeline: 2 } }",
        "spec",
        "must divide the ranks of a group",
    ),
    case(
        "the largest group",
        "spec: { workers: 127, devicesPerNode: 8 }",
        "spec: { workers: 128, devicesPerNode: 8 }",
        "spec",
        "at most 1024 ranks",
    ),
    case(
        "autoscaling's bounds",
        "spec: { replicas: 3, autoscaling: { minReplicas: 3, maxReplicas: 3 } }",
        "spec: { replicas: 3, autoscaling: { minReplicas: 3, maxReplicas: 2 } }",
        "spec",
        "is above autoscaling.maxReplicas",
    ),
    case(
        "replicas within autoscaling's bounds",
        "spec: { replicas: 2, autoscaling: { minReplicas: 2, maxReplicas: 4 } }",
        "spec: { replicas: 5, autoscaling: { minReplicas: 2, maxReplicas: 4 } }",
        "spec",
        "replicas lies outside",
    ),
    case(
        "tokens of a step",
        "spec: { serving: { maxNumSeqs: 8, maxNumBatchedTokens: 8 } }",
        "spec: { serving: { maxNumSeqs: 9, maxNumBatchedTokens: 8 } }",
        "spec.serving",
        "must be at least maxNumSeqs",
    ),
    case(
        "a share of memory",
        "spec: { serving: { kvCacheMemory: 100% } }",
        "spec: { serving: { kvCacheMemory: 101% } }",
        "spec.serving.kvCacheMemory",
        "a share from 1% to 100%",
    ),
    case(
        "an amount of memory",
        "spec: { serving: { kvCacheMemory: 8Gi } }",
        "spec: { serving: { kvCacheMemory: 8G } }",
        "spec.serving.kvCacheMemory",
        "Ki, Mi, Gi or Ti",
    ),
    case(
        "the longest recovery",
        "spec: { serving: { recoveryTimeout: 60m } }",
        "spec: { serving: { recoveryTimeout: 61m } }",
        "spec.serving.recoveryTimeout",
        "at most an hour",
    ),
    case(
        "a time with its unit",
        "spec: { serving: { recoveryTimeout: 3600s } }",
        "spec: { serving: { recoveryTimeout: '120' } }",
        "spec.serving.recoveryTimeout",
        "in seconds or minutes",
    ),
    case(
        "origins of pages",
        "spec: { serving: { allowedOrigins: ['*', 'https://chat.example.com:8443'] } }",
        "spec: { serving: { allowedOrigins: ['https://chat.example.com/page'] } }",
        "spec.serving.allowedOrigins",
        "without a path",
    ),
    case(
        "the longest drain",
        "spec: { updateStrategy: { drainTimeout: 3600s } }",
        "spec: { updateStrategy: { drainTimeout: 3601s } }",
        "spec.updateStrategy.drainTimeout",
        "at most an hour",
    ),
    case(
        "a cache's size",
        "spec: { modelCache: { size: 200Gi } }",
        "spec: { modelCache: { size: 200G } }",
        "spec.modelCache.size",
        "an amount with its unit: Mi, Gi or Ti",
    ),
    Case {
        name: "a cache that stays as it is",
        old: Some("spec: { modelCache: { size: 10Gi } }"),
        good: "spec: { modelCache: { size: 10Gi, accessMode: ReadWriteMany }, workers: 1 }",
        bad: "spec: { modelCache: { size: 20Gi } }",
        field: "spec.modelCache",
        message: "a claim keeps its size",
    },
    Case {
        name: "a cache that goes",
        old: Some("spec: { modelCache: { size: 10Gi } }"),
        good: "spec: { modelCache: null }",
        bad: "spec: { modelCache: { size: 10Gi, storageClassName: fast } }",
        field: "spec.modelCache",
        message: "remove modelCache, delete the claim",
    },
];

/// Returns an object with a value for every field, for the bounds of single fields. It breaks some rules (a token needs an
/// hf:// source), which are judged after the bounds.
pub fn whole_manifest() -> String {
    manifests::cluster("tiny", WHOLE_SPEC)
}

const WHOLE_SPEC: &str = "
  model:
    source: builtin://tiny
    revision: main
    name: tiny
    dtype: f32
    quantization: none
    tokenSecretRef: { name: hf, key: token }
  backend: Ring
  replicas: 2
  workers: 2
  devicesPerNode: 1
  parallelism: { pipeline: 1 }
  serving:
    maxNumSeqs: 8
    maxNumBatchedTokens: 64
    contextLength: 128
    kvCacheMemory: 8Mi
    recoveryTimeout: 30s
    allowedOrigins: [https://chat.example.com]
    apiKeysSecretRef: { name: keys, key: team }
    tlsSecretRef: { name: endpoint }
  image: registry.example/agent:1
  imagePullPolicy: IfNotPresent
  imagePullSecrets: [{ name: registry }]
  env: [{ name: A, value: x, valueFrom: {} }]
  resources: { requests: { cpu: 100m } }
  placement: { policy: Spread, topologyKey: kubernetes.io/hostname }
  service: { type: ClusterIP, annotations: { a: b } }
  clients: { from: Anywhere }
  modelCache: { size: 1Gi, storageClassName: fast, accessMode: ReadWriteMany }
  autoscaling: { minReplicas: 1, maxReplicas: 4, waitingPerGroup: 4 }
  updateStrategy: { maxUnavailable: 1, partition: 0, drainTimeout: 30s }
  restartBudget: 3
  template: { metadata: { labels: { a: b } } }
  head: { spec: { nodeSelector: { a: b } } }
  worker: { spec: { nodeSelector: { a: b } } }
";
