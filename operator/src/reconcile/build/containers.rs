//! The containers of a pod: what they run, their variables, ports and probes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, Lifecycle, LifecycleHandler,
    ObjectFieldSelector, PodTemplateSpec, Probe, ResourceRequirements, SecretKeySelector, SecurityContext, SleepAction,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lockstep_proto::names::{env, hub, port};

use super::volumes;
use crate::objects::PodRole;
use crate::plan::{self, ContainerPlan, HEAD, RANK};
use crate::reconcile::validate::{Validated, seconds};
use crate::resource::SecretKeyRef;

/// What a head asks for where the user asks for nothing: it holds requests and a tokenizer, no weights.
const HEAD_REQUESTS: [(&str, &str); 2] = [("cpu", "250m"), ("memory", "256Mi")];

/// Longest that loading may take while bytes move: the rank itself answers sooner where they do not.
const LOADING_SECONDS: i32 = 3600;

/// Answers "not yet" or none at all, a second apart, after which a start has failed: a process takes a moment to listen.
const STARTUP_FAILURES: i32 = 60;

/// Seconds for which a head that is to end goes on as if nothing were: until every node's proxy has heard, clients are
/// sent to it. Its ranks wait as long, for it needs them.
const FAREWELL_SECONDS: i64 = 5;

/// Seconds that a process which no longer answers is given to end by itself, before it is killed.
const HUNG_SECONDS: i64 = 10;

/// Names of ports.
pub(super) mod port_name {
    pub const GRPC: &str = "grpc";
    pub const HTTP: &str = "http";
    pub const CONTROL: &str = "control";
    pub const RING: &str = "ring";
    pub const PROBE: &str = "probe";
}

/// One container of a pod.
pub(super) fn container(cluster: &Validated, plan: &ContainerPlan, role: PodRole) -> Container {
    let rank = plan.name == RANK;
    let asked = rank && cluster.resources != ResourceRequirements::default();
    let mut container = Container {
        name: plan.name.into(),
        image: Some(cluster.image.clone()),
        image_pull_policy: cluster.spec.image_pull_policy.map(|policy| policy.as_str().into()),
        command: Some(plan.command.clone()),
        env: Some(variables(cluster, plan)),
        ports: Some(if rank { rank_ports(cluster) } else { head_ports() }),
        resources: asked.then(|| cluster.resources.clone()),
        volume_mounts: Some(volumes::mounts(cluster, plan.name)),
        security_context: Some(SecurityContext { read_only_root_filesystem: Some(true), ..unprivileged() }),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        lifecycle: (role == PodRole::Head).then(farewell),
        ..Default::default()
    };
    match (plan.name, role) {
        (HEAD, _) => probe_head(&mut container),
        (_, PodRole::Worker) => probe_worker(&mut container),
        (_, PodRole::Head) => probe_rank_beside_head(&mut container),
    }
    container
}

/// What every container gets whose author said nothing of it.
fn unprivileged() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Default::default() }),
        ..Default::default()
    }
}

/// The contract's variables, the places under the read-only root that may be written, then the user's.
fn variables(cluster: &Validated, plan: &ContainerPlan) -> Vec<EnvVar> {
    let mut all: Vec<EnvVar> = plan.env.iter().map(of_contract).collect();
    let mut say = |name: &str, value: &str| {
        all.push(EnvVar { name: name.into(), value: Some(value.into()), ..Default::default() });
    };
    say("HOME", volumes::TMP);
    say("TMPDIR", volumes::TMP);
    if cluster.spec.model_cache.is_some() {
        say(hub::HOME, volumes::CACHE_HOME);
    }
    if plan.name == HEAD {
        say(env::DRAIN_TIMEOUT, &format!("{}s", drain_seconds(cluster)));
    }
    if let Some(token) = &cluster.spec.model.token_secret_ref {
        all.push(from_secret(hub::TOKEN, token));
    }
    for var in &cluster.env {
        match all.iter_mut().find(|ours| ours.name == var.name) {
            Some(ours) => *ours = var.clone(),
            None => all.push(var.clone()),
        }
    }
    all
}

/// A variable whose value a Secret has: the pod does not start without it.
fn from_secret(name: &str, secret: &SecretKeyRef) -> EnvVar {
    let selector = SecretKeySelector { name: secret.name.clone(), key: secret.key.clone(), optional: None };
    let source = EnvVarSource { secret_key_ref: Some(selector), ..Default::default() };
    EnvVar { name: name.into(), value_from: Some(source), ..Default::default() }
}

fn of_contract(var: &plan::EnvVar) -> EnvVar {
    let field = |path: &str| EnvVarSource {
        field_ref: Some(ObjectFieldSelector { field_path: path.into(), ..Default::default() }),
        ..Default::default()
    };
    match var.field {
        Some(path) => EnvVar { name: var.name.into(), value_from: Some(field(path)), ..Default::default() },
        None => EnvVar { name: var.name.into(), value: Some(var.value.clone()), ..Default::default() },
    }
}

/// How long the head may finish what it has: what the user tells it directly, else the update strategy's.
pub(super) fn drain_seconds(cluster: &Validated) -> i64 {
    let told = cluster.env.iter().find(|var| var.name == env::DRAIN_TIMEOUT).and_then(|var| var.value.as_deref());
    let drain = told.and_then(seconds).unwrap_or(cluster.drain_timeout);
    drain.as_secs().try_into().unwrap_or(i64::MAX)
}

fn head_ports() -> Vec<ContainerPort> {
    vec![
        named(port_name::GRPC, port::GRPC),
        named(port_name::HTTP, port::HTTP),
        named(port_name::CONTROL, port::CONTROL),
    ]
}

/// One ring port for each local rank, and the probes'.
fn rank_ports(cluster: &Validated) -> Vec<ContainerPort> {
    let ring = |rank: u16| match rank {
        0 => named(port_name::RING, port::RING),
        rank => named(&format!("{}-{rank}", port_name::RING), port::RING + rank),
    };
    let ranks = u16::try_from(cluster.spec.devices_per_node).unwrap_or(u16::MAX);
    (0..ranks).map(ring).chain([named(port_name::PROBE, port::PROBE)]).collect()
}

fn named(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number.into(),
        protocol: Some("TCP".into()),
        ..Default::default()
    }
}

fn get(port: &str, path: &str, period: i32, timeout: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String(port.into()),
            ..Default::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(timeout),
        failure_threshold: Some(failures),
        ..Default::default()
    }
}

/// Liveness; what fails it is hung and has nothing to finish, so the pod's long grace is not for it.
fn liveness(port: &str, path: &str) -> Probe {
    Probe { termination_grace_period_seconds: Some(HUNG_SECONDS), ..get(port, path, 10, 5, 3) }
}

fn farewell() -> Lifecycle {
    let sleep = SleepAction { seconds: FAREWELL_SECONDS };
    Lifecycle { pre_stop: Some(LifecycleHandler { sleep: Some(sleep), ..Default::default() }), ..Default::default() }
}

fn probe_head(container: &mut Container) {
    container.startup_probe = Some(get(port_name::HTTP, "/health", 1, 5, 120));
    container.liveness_probe = Some(liveness(port_name::HTTP, "/health"));
    container.readiness_probe = Some(get(port_name::HTTP, "/accepting", 1, 2, 2));
}

/// The startup probe is one long answer that the rank holds back while bytes move.
fn probe_worker(container: &mut Container) {
    container.startup_probe = Some(get(port_name::PROBE, "/startup", 1, LOADING_SECONDS, STARTUP_FAILURES));
    container.liveness_probe = Some(liveness(port_name::PROBE, "/live"));
    container.readiness_probe = Some(get(port_name::PROBE, "/ready", 2, 2, 1));
}

/// The head pod is ready when its head accepts requests, and for no other reason: a group that lost a rank queues
/// what comes, so the client Service must keep sending. A readiness or startup probe on the ranks beside the head
/// would take the pod out of the Service; these ranks tell of themselves through the head's `Cluster` service.
fn probe_rank_beside_head(container: &mut Container) {
    let probe = liveness(port_name::PROBE, "/live");
    container.liveness_probe = Some(Probe { initial_delay_seconds: Some(10), ..probe });
}

/// After the overlays: what is still unsaid. Defaults set earlier would contradict limits that an overlay sets, and a
/// sidecar that says nothing of its rights gets the fewest.
pub(super) fn complete(template: &mut PodTemplateSpec) {
    let Some(spec) = &mut template.spec else { return };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.security_context.get_or_insert_with(unprivileged);
        if container.name == HEAD {
            request(container.resources.get_or_insert_default());
        }
    }
}

fn request(resources: &mut ResourceRequirements) {
    let limits = resources.limits.clone().unwrap_or_default();
    let requests: &mut BTreeMap<_, _> = resources.requests.get_or_insert_default();
    for (what, amount) in HEAD_REQUESTS {
        // A limit alone is a request too.
        if !limits.contains_key(what) {
            requests.entry(what.into()).or_insert_with(|| Quantity(amount.into()));
        }
    }
    if requests.is_empty() {
        resources.requests = None;
    }
}
