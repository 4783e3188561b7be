//! Names and numbers that users type and that both sides must agree on.
//!
//! Programs read and set variables by these constants alone. Messages and documents spell a name out where a sentence
//! reads better so.

/// Defines a constant for each environment variable, and `ALL`, the list of them in the order given.
macro_rules! variables {
    ($($(#[doc = $doc:literal])* $constant:ident = $name:literal;)*) => {
        $($(#[doc = $doc])* pub const $constant: &str = $name;)*

        /// All of the above.
        pub const ALL: &[&str] = &[$($constant),*];
    };
}

/// Environment variables of the group, with mistral.rs's names where it has one.
pub mod env {
    variables! {
        GLOBAL_WORLD_SIZE = "MISTRALRS_MN_GLOBAL_WORLD_SIZE";
        LOCAL_WORLD_SIZE = "MISTRALRS_MN_LOCAL_WORLD_SIZE";
        HEAD_NUM_WORKERS = "MISTRALRS_MN_HEAD_NUM_WORKERS";
        HEAD_PORT = "MISTRALRS_MN_HEAD_PORT";
        WORKER_ID = "MISTRALRS_MN_WORKER_ID";
        WORKER_SERVER_ADDR = "MISTRALRS_MN_WORKER_SERVER_ADDR";
        WORKER_SERVER_ADDR_ALIAS = "MISTRALRS_WORKER_SERVER_ADDR";
        NO_NCCL = "MISTRALRS_NO_NCCL";
        PIPELINE_PARALLEL = "MISTRALRS_PIPELINE_PARALLEL";
        RING_PORT = "RING_PORT";
        RING_RIGHT = "RING_RIGHT";
        RING_RANK = "RING_RANK";
        RING_WORLD_SIZE = "RING_WORLD_SIZE";
        RING_CONFIG = "RING_CONFIG";

        /// Ring port of a node in a multi-node group on CPU; 0 takes a free one.
        LOCKSTEP_RING_PORT = "LOCKSTEP_RING_PORT";
        /// Control port of rank 0 in a ring-only group; default: a free one.
        CONTROL_PORT = "LOCKSTEP_CONTROL_PORT";
        /// Address that the group's own ports (control and ring) listen on; default: loopback if all ranks are on this
        /// machine, else every address.
        GROUP_HOST = "LOCKSTEP_GROUP_HOST";
        /// Identity of the group; default: the head draws one.
        CLUSTER_ID = "LOCKSTEP_CLUSTER_ID";
        /// Path of a file that holds the group's key. The key has at least 16 bytes, and every byte counts.
        GROUP_KEY_FILE = "LOCKSTEP_GROUP_KEY_FILE";
        /// `child` (default): the head starts its own ranks; `separate`: another container of its pod runs them.
        HEAD_NODE = "LOCKSTEP_HEAD_NODE";
        /// Folder with `ca.crt`, `tls.crt` and `tls.key`. Control streams then speak mutual TLS. The agent reads the files
        /// again when they change.
        TLS_DIR = "LOCKSTEP_TLS_DIR";
        /// Port on which a node answers probes: `/startup`, `/live`, `/ready`, `/metrics`; default: none.
        PROBE_PORT = "LOCKSTEP_PROBE_PORT";
        /// Address at which other nodes reach this node; default: the source address of its control stream.
        ADVERTISE = "LOCKSTEP_ADVERTISE";
        /// Address that the client ports bind to.
        HOST = "LOCKSTEP_HOST";
        HTTP_PORT = "LOCKSTEP_HTTP_PORT";
        GRPC_PORT = "LOCKSTEP_GRPC_PORT";
        /// Origins of web pages that may use the HTTP endpoint, separated by commas; default: those of this machine.
        ALLOWED_ORIGINS = "LOCKSTEP_ALLOWED_ORIGINS";
        /// Keys that clients may send, separated by commas; default: clients need no key.
        API_KEY = "LOCKSTEP_API_KEY";
        /// Path of a file with such keys, one on each line. The head reads the file again when it changes.
        API_KEY_FILE = "LOCKSTEP_API_KEY_FILE";
        /// Paths of the certificate and of the key of the client ports; default: the ports speak plain text.
        SSL_CERTFILE = "LOCKSTEP_SSL_CERTFILE";
        SSL_KEYFILE = "LOCKSTEP_SSL_KEYFILE";
        /// Name by which clients call the model.
        MODEL_NAME = "LOCKSTEP_MODEL_NAME";
        CHAT_TEMPLATE = "LOCKSTEP_CHAT_TEMPLATE";
        MODEL_SOURCE = "LOCKSTEP_MODEL_SOURCE";
        /// Branch, tag or commit of a model of a hub; default: `main`.
        MODEL_REVISION = "LOCKSTEP_MODEL_REVISION";
        /// `auto`, `f32`, `bf16` or `f16`.
        DTYPE = "LOCKSTEP_DTYPE";
        /// Format to which the agent quantizes matrices while it loads them: `none`, `q8_0`, `q4_k`, ….
        QUANTIZATION = "LOCKSTEP_QUANTIZATION";
        MAX_NUM_SEQS = "LOCKSTEP_MAX_NUM_SEQS";
        MAX_NUM_BATCHED_TOKENS = "LOCKSTEP_MAX_NUM_BATCHED_TOKENS";
        CONTEXT_LENGTH = "LOCKSTEP_CONTEXT_LENGTH";
        /// Bytes (`512Mi`) or a share of free memory (`90%`).
        KV_CACHE_MEMORY = "LOCKSTEP_KV_CACHE_MEMORY";
        /// Most requests in the queue; the head refuses further ones.
        MAX_WAITING = "LOCKSTEP_MAX_WAITING";
        /// Form in which the model writes tool calls: `auto`, `none`, `hermes`, `llama3_json`, `mistral`, `pythonic` or
        /// `qwen3_coder`.
        TOOL_CALL_PARSER = "LOCKSTEP_TOOL_CALL_PARSER";
        /// Marks by which the model sets off its reasoning: `auto`, `none`, `think` or `mistral`.
        REASONING_PARSER = "LOCKSTEP_REASONING_PARSER";
        /// Set (`1`) if the head refuses HTTP requests with a field that nobody knows.
        STRICT_FIELDS = "LOCKSTEP_STRICT_FIELDS";
        /// Set (`1`) if clients may subscribe to the events of the prefix cache.
        KV_EVENTS = "LOCKSTEP_KV_EVENTS";
        /// Longest time that a request waits for the group to form again, e.g. `120s`.
        RECOVERY_TIMEOUT = "LOCKSTEP_RECOVERY_TIMEOUT";
        /// Longest time that a drain takes, e.g. `30s`.
        DRAIN_TIMEOUT = "LOCKSTEP_DRAIN_TIMEOUT";
        /// Threads of each rank; default: the machine's cores divided by its ranks.
        THREADS = "LOCKSTEP_THREADS";
        /// Instruction set to use instead of the best one: `portable`, `avx2`, `avx512`, `neon`.
        ISA = "LOCKSTEP_ISA";
        /// Memory of simulated devices, separated by commas (`512Mi,1Gi`). The CPU computes their layers in the way of
        /// devices without kernels of their own. Serves to try a placement on a machine without such devices.
        PLAIN_DEVICES = "LOCKSTEP_PLAIN_DEVICES";
        /// `text` or `json`.
        LOG_FORMAT = "LOCKSTEP_LOG_FORMAT";
        /// Filter of the logs, in tracing's syntax.
        LOG = "LOCKSTEP_LOG";
        /// Path of the agent that `lockstep up` starts.
        AGENT = "LOCKSTEP_AGENT";
        /// gRPC endpoint (`host:port`) of the group that the `lockstep` command talks to.
        ENDPOINT = "LOCKSTEP_ENDPOINT";
        /// `1`: the agent ends when its standard input closes. The parent process holds the other end.
        FOLLOW_PARENT = "LOCKSTEP_FOLLOW_PARENT";
    }
}

/// Hugging Face's own variables, by the rules of its Python library. Other programs use them too, so an empty variable
/// counts as unset.
pub mod hub {
    variables! {
        /// Folder of the cache and the token file.
        HOME = "HF_HOME";
        /// Folder of the cache alone.
        CACHE = "HF_HUB_CACHE";
        TOKEN = "HF_TOKEN";
        TOKEN_PATH = "HF_TOKEN_PATH";
        /// `1`: the agent sends no request to the hub.
        OFFLINE = "HF_HUB_OFFLINE";
        /// Address of another hub.
        ENDPOINT = "HF_ENDPOINT";
    }
}

/// The key of a group: a file for the agents, in Kubernetes an entry of a Secret.
pub mod group_key {
    /// Least length of a key in bytes.
    pub const MIN_BYTES: usize = 16;
    /// Greatest length of a key in bytes; a longer file is not a key.
    pub const MAX_BYTES: usize = 4096;
}

/// Default ports.
pub mod port {
    /// Probes of nodes. The number is below the others, because the ring's ports count up from `RING`.
    pub const PROBE: u16 = 1233;
    pub const GRPC: u16 = 50051;
    pub const HTTP: u16 = 1234;
    pub const CONTROL: u16 = 1235;
    /// Ring port of a node's first rank; each further rank takes the next port.
    pub const RING: u16 = 1236;
}

/// Names in the certificates of control streams (DNS, as subject alternative names): one for each role. Every cluster
/// has a CA of its own, so the name says nothing but the role.
pub mod role {
    pub const HEAD: &str = "head.lockstep";
    pub const NODE: &str = "node.lockstep";
    pub const OPERATOR: &str = "operator.lockstep";
}

/// Beginning of the log line with which a process ends that can never serve its model. The operator looks for it.
pub const MODEL_UNUSABLE: &str = "the model can never be served: ";

/// Name that always means the served model.
pub const DEFAULT_MODEL: &str = "default";

/// API group, version and kind of the custom resource.
pub mod resource {
    pub const GROUP: &str = "lockstep.dev";
    pub const VERSION: &str = "v1alpha1";
    pub const KIND: &str = "InferenceCluster";
}
