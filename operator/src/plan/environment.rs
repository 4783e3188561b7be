//! The environment of each pod: the contract between the operator and the agent. The head is told everything about the
//! service; a worker learns it from the head, so that only what finds the head and places the worker is said twice.

use lockstep_proto::names::{env, port};

use super::{Addresses, EnvVar, Names, Role, world_size};
use crate::resource::{InferenceClusterSpec, Quantization};

/// Label that a StatefulSet gives each pod: its ordinal.
const POD_INDEX: &str = "metadata.labels['apps.kubernetes.io/pod-index']";
const POD_ADDRESS: &str = "status.podIP";

pub(super) fn of(spec: &InferenceClusterSpec, names: &Names, addresses: &Addresses, role: Role) -> Vec<EnvVar> {
    let mut vars = Vec::new();
    let mut say = |name: &'static str, value: String| vars.push(EnvVar { name, value, field: None });
    say(env::GLOBAL_WORLD_SIZE, world_size(spec).to_string());
    say(env::LOCAL_WORLD_SIZE, spec.devices_per_node.to_string());
    match role {
        Role::Head => {
            say(env::HEAD_NUM_WORKERS, spec.workers.to_string());
            say(env::HEAD_PORT, addresses.ports().control.to_string());
        }
        Role::Worker(ordinal) => {
            say(env::WORKER_ID, ordinal.to_string());
            say(env::WORKER_SERVER_ADDR, addresses.control(names));
        }
    }
    if spec.parallelism.pipeline > 1 {
        say(env::PIPELINE_PARALLEL, spec.parallelism.pipeline.to_string());
    }
    say(env::CLUSTER_ID, names.group_name());
    place(&mut say, spec, addresses);
    if role == Role::Head {
        service(&mut say, spec, addresses);
    }
    if let Addresses::Kubernetes { .. } = addresses {
        if role == Role::Head {
            vars.push(EnvVar { name: env::HEAD_NODE, value: "separate".into(), field: None });
            vars.extend(in_every_container());
        } else {
            vars.extend(of_node());
            for var in vars.iter_mut().filter(|var| var.name == env::WORKER_ID) {
                var.field = Some(POD_INDEX);
            }
        }
    }
    vars
}

/// What every container of ranks is told in Kubernetes.
pub(super) fn of_node() -> Vec<EnvVar> {
    let mut vars = in_every_container();
    vars.push(EnvVar { name: env::PROBE_PORT, value: port::PROBE.to_string(), field: None });
    vars.push(EnvVar { name: env::ADVERTISE, value: "(the pod's address)".into(), field: Some(POD_ADDRESS) });
    vars
}

fn in_every_container() -> Vec<EnvVar> {
    let say = |name, value: &str| EnvVar { name, value: value.into(), field: None };
    vec![
        say(env::TLS_DIR, super::TLS_DIR),
        say(env::GROUP_KEY_FILE, super::GROUP_KEY_FILE),
        say(env::LOG_FORMAT, "json"),
    ]
}

/// What depends on where the pod is.
fn place(say: &mut impl FnMut(&'static str, String), spec: &InferenceClusterSpec, addresses: &Addresses) {
    match addresses {
        Addresses::Kubernetes { .. } => say(env::LOCKSTEP_RING_PORT, port::RING.to_string()),
        Addresses::Local { threads, .. } => {
            say(env::GROUP_HOST, "127.0.0.1".into());
            // Nobody need know a ring port beforehand: addresses go through hello.
            if world_size(spec) > 1 {
                say(env::LOCKSTEP_RING_PORT, "0".into());
            }
            say(env::THREADS, threads.to_string());
        }
    }
}

/// What the head serves, and how.
fn service(say: &mut impl FnMut(&'static str, String), spec: &InferenceClusterSpec, addresses: &Addresses) {
    let ports = addresses.ports();
    say(env::HOST, addresses.client_host().to_owned());
    say(env::GRPC_PORT, ports.grpc.to_string());
    say(env::HTTP_PORT, ports.http.to_string());
    if let Some(name) = &spec.model.name {
        say(env::MODEL_NAME, name.clone());
    }
    if let Some(revision) = &spec.model.revision {
        say(env::MODEL_REVISION, revision.clone());
    }
    say(env::DTYPE, spec.model.dtype.as_str().to_owned());
    if spec.model.quantization != Quantization::None {
        say(env::QUANTIZATION, spec.model.quantization.as_str().to_owned());
    }
    let serving = &spec.serving;
    say(env::MAX_NUM_SEQS, serving.max_num_seqs.to_string());
    say(env::MAX_NUM_BATCHED_TOKENS, serving.max_num_batched_tokens.to_string());
    if let Some(length) = serving.context_length {
        say(env::CONTEXT_LENGTH, length.to_string());
    }
    say(env::KV_CACHE_MEMORY, kv_memory(&serving.kv_cache_memory, world_size(spec), addresses));
    say(env::RECOVERY_TIMEOUT, serving.recovery_timeout.clone());
}

/// A share is of the node's free memory; on one machine all ranks share that, so each gets its part of the share.
fn kv_memory(asked: &str, ranks: u32, addresses: &Addresses) -> String {
    let share = asked.strip_suffix('%').and_then(|share| share.parse::<u32>().ok());
    match (addresses, share) {
        (Addresses::Local { .. }, Some(share)) => format!("{}%", (share / ranks).max(1)),
        _ => asked.to_owned(),
    }
}
