//! Names and numbers that users type and that both sides must agree on. Nothing else in the tree spells them out.

/// Environment variables of the group, with mistral.rs's names where it has one.
pub mod env {
    pub const GLOBAL_WORLD_SIZE: &str = "MISTRALRS_MN_GLOBAL_WORLD_SIZE";
    pub const LOCAL_WORLD_SIZE: &str = "MISTRALRS_MN_LOCAL_WORLD_SIZE";
    pub const HEAD_NUM_WORKERS: &str = "MISTRALRS_MN_HEAD_NUM_WORKERS";
    pub const HEAD_PORT: &str = "MISTRALRS_MN_HEAD_PORT";
    pub const WORKER_ID: &str = "MISTRALRS_MN_WORKER_ID";
    pub const WORKER_SERVER_ADDR: &str = "MISTRALRS_MN_WORKER_SERVER_ADDR";
    pub const WORKER_SERVER_ADDR_ALIAS: &str = "MISTRALRS_WORKER_SERVER_ADDR";
    pub const NO_NCCL: &str = "MISTRALRS_NO_NCCL";
    pub const PIPELINE_PARALLEL: &str = "MISTRALRS_PIPELINE_PARALLEL";
    pub const RING_PORT: &str = "RING_PORT";
    pub const RING_RIGHT: &str = "RING_RIGHT";
    pub const RING_RANK: &str = "RING_RANK";
    pub const RING_WORLD_SIZE: &str = "RING_WORLD_SIZE";
    pub const RING_CONFIG: &str = "RING_CONFIG";

    /// Ring port of a node in a multi-node group on CPU; 0 takes a free one.
    pub const LOCKSTEP_RING_PORT: &str = "LOCKSTEP_RING_PORT";
    /// Control port of rank 0 in a ring-only group; default: a free one.
    pub const CONTROL_PORT: &str = "LOCKSTEP_CONTROL_PORT";
    /// Address that the group's own ports (control and ring) listen on; default: loopback where all ranks are on this
    /// machine, else every address.
    pub const GROUP_HOST: &str = "LOCKSTEP_GROUP_HOST";
    /// Identity of the group; default: drawn by the head.
    pub const CLUSTER_ID: &str = "LOCKSTEP_CLUSTER_ID";
    /// Path of a file that holds the group's key: at least 16 bytes, compared whole.
    pub const GROUP_KEY_FILE: &str = "LOCKSTEP_GROUP_KEY_FILE";
    /// `child` (default): the head starts its own ranks; `separate`: another container of its pod runs them.
    pub const HEAD_NODE: &str = "LOCKSTEP_HEAD_NODE";
    /// Folder with `ca.crt`, `tls.crt` and `tls.key`: control streams speak mutual TLS. Read anew when it changes.
    pub const TLS_DIR: &str = "LOCKSTEP_TLS_DIR";
    /// Port on which a node answers probes: `/startup`, `/live`, `/ready`, `/metrics`; default: none.
    pub const PROBE_PORT: &str = "LOCKSTEP_PROBE_PORT";
    /// Address that other nodes reach this one at; default: the one that its control stream comes from.
    pub const ADVERTISE: &str = "LOCKSTEP_ADVERTISE";
    /// Address that the client ports bind to.
    pub const HOST: &str = "LOCKSTEP_HOST";
    pub const HTTP_PORT: &str = "LOCKSTEP_HTTP_PORT";
    pub const GRPC_PORT: &str = "LOCKSTEP_GRPC_PORT";
    /// What clients call the model.
    pub const MODEL_NAME: &str = "LOCKSTEP_MODEL_NAME";
    pub const MODEL_SOURCE: &str = "LOCKSTEP_MODEL_SOURCE";
    /// Branch, tag or commit of a model of a hub; default: `main`.
    pub const MODEL_REVISION: &str = "LOCKSTEP_MODEL_REVISION";
    /// `auto`, `f32`, `bf16` or `f16`.
    pub const DTYPE: &str = "LOCKSTEP_DTYPE";
    /// `none`, `q8_0` or `q4_k`: what matrices are quantized to while loading.
    pub const QUANTIZATION: &str = "LOCKSTEP_QUANTIZATION";
    pub const MAX_NUM_SEQS: &str = "LOCKSTEP_MAX_NUM_SEQS";
    pub const MAX_NUM_BATCHED_TOKENS: &str = "LOCKSTEP_MAX_NUM_BATCHED_TOKENS";
    pub const CONTEXT_LENGTH: &str = "LOCKSTEP_CONTEXT_LENGTH";
    /// Bytes (`512Mi`) or a share of free memory (`90%`).
    pub const KV_CACHE_MEMORY: &str = "LOCKSTEP_KV_CACHE_MEMORY";
    /// Requests that may wait in the queue before new ones are refused.
    pub const MAX_WAITING: &str = "LOCKSTEP_MAX_WAITING";
    /// How the model spells tool calls: `auto`, `none`, `hermes`, `llama3_json`, `mistral`, `pythonic` or
    /// `qwen3_coder`.
    pub const TOOL_CALL_PARSER: &str = "LOCKSTEP_TOOL_CALL_PARSER";
    /// How the model marks its reasoning: `auto`, `none`, `think` or `mistral`.
    pub const REASONING_PARSER: &str = "LOCKSTEP_REASONING_PARSER";
    /// How long a request waits for the group to form again, e.g. `120s`.
    pub const RECOVERY_TIMEOUT: &str = "LOCKSTEP_RECOVERY_TIMEOUT";
    /// How long a drain may take, e.g. `30s`.
    pub const DRAIN_TIMEOUT: &str = "LOCKSTEP_DRAIN_TIMEOUT";
    /// Threads of each rank; default: the machine's divided by its ranks.
    pub const THREADS: &str = "LOCKSTEP_THREADS";
    /// Forces an instruction set: `portable`, `avx2`, `avx512`, `neon`.
    pub const ISA: &str = "LOCKSTEP_ISA";
    /// Memory of devices that the agent is to act as if it had, with commas (`512Mi,1Gi`): their layers are computed on
    /// the CPU in the way of devices without kernels of their own. To try a placement where there is no such device.
    pub const PLAIN_DEVICES: &str = "LOCKSTEP_PLAIN_DEVICES";
    /// `text` or `json`.
    pub const LOG_FORMAT: &str = "LOCKSTEP_LOG_FORMAT";
    /// Filter of the logs, in tracing's syntax.
    pub const LOG: &str = "LOCKSTEP_LOG";
    /// Path of the agent that `lockstep up` starts.
    pub const AGENT: &str = "LOCKSTEP_AGENT";
    /// Where the `lockstep` command finds a group: `host:port` of its gRPC endpoint.
    pub const ENDPOINT: &str = "LOCKSTEP_ENDPOINT";
    /// `1`: end when standard input closes; whoever started this process holds the other end.
    pub const FOLLOW_PARENT: &str = "LOCKSTEP_FOLLOW_PARENT";

    /// All of the above.
    pub const ALL: &[&str] = &[
        GLOBAL_WORLD_SIZE,
        LOCAL_WORLD_SIZE,
        HEAD_NUM_WORKERS,
        HEAD_PORT,
        WORKER_ID,
        WORKER_SERVER_ADDR,
        WORKER_SERVER_ADDR_ALIAS,
        NO_NCCL,
        PIPELINE_PARALLEL,
        RING_PORT,
        RING_RIGHT,
        RING_RANK,
        RING_WORLD_SIZE,
        RING_CONFIG,
        LOCKSTEP_RING_PORT,
        CONTROL_PORT,
        GROUP_HOST,
        CLUSTER_ID,
        GROUP_KEY_FILE,
        HEAD_NODE,
        TLS_DIR,
        PROBE_PORT,
        ADVERTISE,
        HOST,
        HTTP_PORT,
        GRPC_PORT,
        MODEL_NAME,
        MODEL_SOURCE,
        MODEL_REVISION,
        DTYPE,
        QUANTIZATION,
        MAX_NUM_SEQS,
        MAX_NUM_BATCHED_TOKENS,
        CONTEXT_LENGTH,
        KV_CACHE_MEMORY,
        MAX_WAITING,
        TOOL_CALL_PARSER,
        REASONING_PARSER,
        RECOVERY_TIMEOUT,
        DRAIN_TIMEOUT,
        THREADS,
        ISA,
        PLAIN_DEVICES,
        LOG_FORMAT,
        LOG,
        AGENT,
        ENDPOINT,
        FOLLOW_PARENT,
    ];
}

/// Hugging Face's own variables, by the rules of its Python library. They are everybody's, so an empty one is as good as
/// none.
pub mod hub {
    /// Folder of the cache and the token file.
    pub const HOME: &str = "HF_HOME";
    /// Folder of the cache alone.
    pub const CACHE: &str = "HF_HUB_CACHE";
    pub const TOKEN: &str = "HF_TOKEN";
    pub const TOKEN_PATH: &str = "HF_TOKEN_PATH";
    /// `1`: nothing is asked of the hub.
    pub const OFFLINE: &str = "HF_HUB_OFFLINE";
    /// Address of another hub.
    pub const ENDPOINT: &str = "HF_ENDPOINT";

    /// All of the above.
    pub const ALL: &[&str] = &[HOME, CACHE, TOKEN, TOKEN_PATH, OFFLINE, ENDPOINT];
}

/// The key of a group: a file for the agents, in Kubernetes an entry of a Secret.
pub mod group_key {
    /// Fewer bytes than this are no key.
    pub const MIN_BYTES: usize = 16;
    /// More bytes than this are some other file.
    pub const MAX_BYTES: usize = 4096;
}

/// Default ports.
pub mod port {
    /// Probes of nodes. Below the others, because the ring's ports go up from theirs.
    pub const PROBE: u16 = 1233;
    pub const GRPC: u16 = 50051;
    pub const HTTP: u16 = 1234;
    pub const CONTROL: u16 = 1235;
    /// The ring of a node's first rank; each further rank's is the next one.
    pub const RING: u16 = 1236;
}

/// Names in the certificates of control streams (DNS, as subject alternative names): one for each role. The CA is the
/// cluster's own, so the role is all that a name need say.
pub mod role {
    pub const HEAD: &str = "head.lockstep";
    pub const NODE: &str = "node.lockstep";
    pub const OPERATOR: &str = "operator.lockstep";
}

/// The name that always means the served model.
pub const DEFAULT_MODEL: &str = "default";

/// API group, version and kind of the custom resource.
pub mod resource {
    pub const GROUP: &str = "lockstep.dev";
    pub const VERSION: &str = "v1alpha1";
    pub const KIND: &str = "InferenceCluster";
}
