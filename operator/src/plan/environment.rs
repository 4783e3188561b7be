//! Environment of each container: the contract between the operator and the agent. The head's environment has all
//! settings of the service. Workers learn these settings from the head. A worker's environment has only its place in
//! the group and the head's address.

use lockstep_proto::choices::Quantization;
use lockstep_proto::names::{env, port};

use super::{API_KEYS_DIR, Addresses, CLIENT_TLS_DIR, EnvVar, Names, Role, world_size};
use crate::resource::{InferenceClusterSpec, LocalObject, Origin, SecretKeyRef, Serving};

/// Sets the variable of each field of a struct. Every field is named, so that a new one does not compile before it reaches
/// the agent.
macro_rules! set_fields {
    ($set:ident, $value:expr, $type:ident { $($field:ident => $variable:ident),+ $(,)? }) => {
        let $type { $($field),+ } = $value;
        $(if let Some(value) = $field.to_variable() {
            $set(env::$variable, value);
        })+
    };
}

/// Field of a pod that holds its ordinal. A StatefulSet sets this label on each of its pods.
const POD_INDEX: &str = "metadata.labels['apps.kubernetes.io/pod-index']";
/// Field of a pod that holds its IP address.
const POD_ADDRESS: &str = "status.podIP";

/// Returns the environment of the process that a pod of `role` runs: the head, or a worker's ranks.
pub(super) fn process_environment(
    spec: &InferenceClusterSpec,
    names: &Names,
    addresses: &Addresses,
    role: Role,
) -> Vec<EnvVar> {
    let mut vars = Vec::new();
    let mut set = |name: &'static str, value: String| vars.push(EnvVar { name, value, field: None });
    set(env::GLOBAL_WORLD_SIZE, world_size(spec).to_string());
    set(env::LOCAL_WORLD_SIZE, spec.devices_per_node.to_string());
    match role {
        Role::Head => {
            set(env::HEAD_NUM_WORKERS, spec.workers.to_string());
            set(env::HEAD_PORT, addresses.ports().control.to_string());
        }
        Role::Worker(ordinal) => {
            set(env::WORKER_ID, ordinal.to_string());
            set(env::WORKER_SERVER_ADDR, addresses.control_address(names));
        }
    }
    if spec.parallelism.pipeline > 1 {
        set(env::PIPELINE_PARALLEL, spec.parallelism.pipeline.to_string());
    }
    set(env::CLUSTER_ID, names.group_name());
    set_address_dependent(&mut set, spec, addresses);
    if role == Role::Head {
        set_service(&mut set, spec, addresses);
    }
    if let Addresses::Kubernetes = addresses {
        if role == Role::Head {
            vars.push(EnvVar { name: env::HEAD_NODE, value: "separate".into(), field: None });
            vars.extend(common_environment());
        } else {
            vars.extend(node_environment());
            for var in vars.iter_mut().filter(|var| var.name == env::WORKER_ID) {
                var.field = Some(POD_INDEX);
            }
        }
    }
    vars
}

/// Returns the variables of every container of ranks in Kubernetes.
pub(super) fn node_environment() -> Vec<EnvVar> {
    let mut vars = common_environment();
    vars.push(EnvVar { name: env::PROBE_PORT, value: port::PROBE.to_string(), field: None });
    vars.push(EnvVar { name: env::ADVERTISE, value: "(the pod's address)".into(), field: Some(POD_ADDRESS) });
    vars
}

/// Returns the variables of every container in Kubernetes.
fn common_environment() -> Vec<EnvVar> {
    let var = |name, value: &str| EnvVar { name, value: value.into(), field: None };
    vec![
        var(env::TLS_DIR, super::TLS_DIR),
        var(env::GROUP_KEY_FILE, super::GROUP_KEY_FILE),
        var(env::LOG_FORMAT, "json"),
    ]
}

/// Sets the variables that depend on the addresses.
fn set_address_dependent(
    set: &mut impl FnMut(&'static str, String),
    spec: &InferenceClusterSpec,
    addresses: &Addresses,
) {
    match addresses {
        Addresses::Kubernetes => set(env::LOCKSTEP_RING_PORT, port::RING.to_string()),
        Addresses::Local { threads, .. } => {
            set(env::GROUP_HOST, "127.0.0.1".into());
            // Ranks report their ring addresses in the hello message, so any free port will do.
            if world_size(spec) > 1 {
                set(env::LOCKSTEP_RING_PORT, "0".into());
            }
            set(env::THREADS, threads.to_string());
        }
    }
}

/// Sets the variables of the service: ports, model and limits.
fn set_service(set: &mut impl FnMut(&'static str, String), spec: &InferenceClusterSpec, addresses: &Addresses) {
    let ports = addresses.ports();
    set(env::HOST, addresses.client_host().to_owned());
    set(env::GRPC_PORT, ports.grpc.to_string());
    set(env::HTTP_PORT, ports.http.to_string());
    if let Some(name) = &spec.model.name {
        set(env::MODEL_NAME, name.clone());
    }
    if let Some(revision) = &spec.model.revision {
        set(env::MODEL_REVISION, revision.clone());
    }
    set(env::DTYPE, spec.model.dtype.as_str().to_owned());
    if spec.model.quantization != Quantization::None {
        set(env::QUANTIZATION, spec.model.quantization.as_str().to_owned());
    }
    let kv_cache_memory = kv_memory(&spec.serving.kv_cache_memory, world_size(spec), addresses);
    let mut serving = Serving { kv_cache_memory, ..spec.serving.clone() };
    if let Addresses::Local { .. } = addresses {
        (serving.api_keys_secret_ref, serving.tls_secret_ref) = (None, None);
    }
    if serving.has_tls() {
        set(env::SSL_KEYFILE, format!("{CLIENT_TLS_DIR}/tls.key"));
    }
    set_fields!(set, serving, Serving {
        max_num_seqs => MAX_NUM_SEQS,
        max_num_batched_tokens => MAX_NUM_BATCHED_TOKENS,
        context_length => CONTEXT_LENGTH,
        kv_cache_memory => KV_CACHE_MEMORY,
        recovery_timeout => RECOVERY_TIMEOUT,
        allowed_origins => ALLOWED_ORIGINS,
        api_keys_secret_ref => API_KEY_FILE,
        tls_secret_ref => SSL_CERTFILE,
    });
}

/// Value that a field of the spec gives to a variable.
trait ToVariable {
    /// Returns the value. `None` if the field is not set, which leaves the agent's own default.
    fn to_variable(&self) -> Option<String>;
}

impl ToVariable for Vec<Origin> {
    fn to_variable(&self) -> Option<String> {
        let origins: Vec<_> = self.iter().map(|origin| origin.0.as_str()).collect();
        (!origins.is_empty()).then(|| origins.join(","))
    }
}

/// The file of keys in the head's container.
impl ToVariable for Option<SecretKeyRef> {
    fn to_variable(&self) -> Option<String> {
        self.as_ref().map(|secret| format!("{API_KEYS_DIR}/{}", secret.key))
    }
}

/// The certificate of the client ports in the head's container.
impl ToVariable for Option<LocalObject> {
    fn to_variable(&self) -> Option<String> {
        self.as_ref().map(|_| format!("{CLIENT_TLS_DIR}/tls.crt"))
    }
}

impl ToVariable for u32 {
    fn to_variable(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl ToVariable for String {
    fn to_variable(&self) -> Option<String> {
        Some(self.clone())
    }
}

impl<T: ToVariable> ToVariable for Option<T> {
    fn to_variable(&self) -> Option<String> {
        self.as_ref()?.to_variable()
    }
}

/// Returns each rank's memory for keys and values. A share counts from the free memory of the machine. The ranks of one
/// machine divide the share.
fn kv_memory(configured: &str, ranks: u32, addresses: &Addresses) -> String {
    let share = configured.strip_suffix('%').and_then(|share| share.parse::<u32>().ok());
    match (addresses, share) {
        (Addresses::Local { .. }, Some(share)) => format!("{}%", (share / ranks).max(1)),
        _ => configured.to_owned(),
    }
}
