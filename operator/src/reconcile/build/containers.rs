//! The containers of a pod: command, variables, ports, probes and resources.

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
use crate::reconcile::validate::{Validated, parse_duration};
use crate::resource::SecretKeyRef;

/// Default resource requests of a head. A head holds requests and a tokenizer, but no weights.
const HEAD_REQUESTS: [(&str, &str); 2] = [("cpu", "250m"), ("memory", "256Mi")];

/// Timeout of a worker's startup probe, in seconds. A rank answers the probe when it has loaded its weights, or earlier
/// if loading makes no progress.
const LOADING_SECONDS: i32 = 3600;

/// Number of failed startup probes, one each second, after which a start has failed. A new process does not listen at
/// once.
const STARTUP_FAILURES: i32 = 60;

/// Seconds for which a head keeps serving after Kubernetes has decided to end it. Kubernetes sends it clients until
/// every kube-proxy knows of the change. The ranks of the head pod wait as long, because the head needs them. If there is
/// no other head, Kubernetes goes on sending clients to this one as long as it is ready. The operator cuts the pause short
/// for a head that it has drained.
const PRE_STOP_SECONDS: i64 = 5;

/// Seconds for which a hung process may end by itself before it is killed.
const HUNG_SECONDS: i64 = 10;

/// Names of ports.
pub(super) mod port_name {
    pub const GRPC: &str = "grpc";
    pub const HTTP: &str = "http";
    pub const CONTROL: &str = "control";
    pub const RING: &str = "ring";
    pub const PROBE: &str = "probe";
}

/// Builds one container of a pod.
pub(super) fn build_container(cluster: &Validated, plan: &ContainerPlan, role: PodRole) -> Container {
    let runs_ranks = plan.name == RANK;
    let has_resources = runs_ranks && cluster.resources != ResourceRequirements::default();
    let mut container = Container {
        name: plan.name.into(),
        image: Some(cluster.image.clone()),
        image_pull_policy: cluster.spec.image_pull_policy.map(|policy| policy.as_str().into()),
        command: Some(plan.command.clone()),
        env: Some(variables(cluster, plan)),
        ports: Some(if runs_ranks { rank_ports(cluster) } else { head_ports() }),
        resources: has_resources.then(|| cluster.resources.clone()),
        volume_mounts: Some(volumes::container_mounts(cluster, plan.name)),
        security_context: Some(SecurityContext { read_only_root_filesystem: Some(true), ..unprivileged() }),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        lifecycle: (role == PodRole::Head).then(wait_before_stop),
        ..Default::default()
    };
    match (plan.name, role) {
        (HEAD, _) => set_head_probes(&mut container, cluster.spec.serving.has_tls()),
        (_, PodRole::Worker) => set_worker_probes(&mut container),
        (_, PodRole::Head) => set_head_rank_probes(&mut container),
    }
    container
}

/// Returns the security context of each container that has none of its own.
fn unprivileged() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Default::default() }),
        ..Default::default()
    }
}

/// Returns the variables of a container: those of the plan, the folders that can be written to, and the user's. A
/// variable of the user replaces a variable of the same name.
fn variables(cluster: &Validated, plan: &ContainerPlan) -> Vec<EnvVar> {
    let mut all: Vec<EnvVar> = plan.env.iter().map(from_plan).collect();
    let mut set = |name: &str, value: &str| {
        all.push(EnvVar { name: name.into(), value: Some(value.into()), ..Default::default() });
    };
    set("HOME", volumes::TMP);
    set("TMPDIR", volumes::TMP);
    if cluster.spec.model_cache.is_some() {
        set(hub::HOME, volumes::CACHE_HOME);
    }
    if plan.name == HEAD {
        set(env::DRAIN_TIMEOUT, &format!("{}s", drain_seconds(cluster)));
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

/// Returns a variable that takes its value from a Secret. The pod does not start without the Secret.
fn from_secret(name: &str, secret: &SecretKeyRef) -> EnvVar {
    let selector = SecretKeySelector { name: secret.name.clone(), key: secret.key.clone(), optional: None };
    let source = EnvVarSource { secret_key_ref: Some(selector), ..Default::default() };
    EnvVar { name: name.into(), value_from: Some(source), ..Default::default() }
}

/// Converts a variable of the plan.
fn from_plan(var: &plan::EnvVar) -> EnvVar {
    let field = |path: &str| EnvVarSource {
        field_ref: Some(ObjectFieldSelector { field_path: path.into(), ..Default::default() }),
        ..Default::default()
    };
    match var.field {
        Some(path) => EnvVar { name: var.name.into(), value_from: Some(field(path)), ..Default::default() },
        None => EnvVar { name: var.name.into(), value: Some(var.value.clone()), ..Default::default() },
    }
}

/// Returns the time for which a head may finish its requests, in seconds. A variable of the user comes before the
/// timeout of the update strategy.
pub(super) fn drain_seconds(cluster: &Validated) -> i64 {
    let variable = cluster.env.iter().find(|var| var.name == env::DRAIN_TIMEOUT).and_then(|var| var.value.as_deref());
    let drain = variable.and_then(parse_duration).unwrap_or(cluster.drain_timeout);
    drain.as_secs().try_into().unwrap_or(i64::MAX)
}

fn head_ports() -> Vec<ContainerPort> {
    vec![
        container_port(port_name::GRPC, port::GRPC),
        container_port(port_name::HTTP, port::HTTP),
        container_port(port_name::CONTROL, port::CONTROL),
    ]
}

/// Returns a ring port for each rank of the pod, and the port of the probes.
fn rank_ports(cluster: &Validated) -> Vec<ContainerPort> {
    let ring = |rank: u16| match rank {
        0 => container_port(port_name::RING, port::RING),
        rank => container_port(&format!("{}-{rank}", port_name::RING), port::RING + rank),
    };
    let ranks = u16::try_from(cluster.spec.devices_per_node).unwrap_or(u16::MAX);
    (0..ranks).map(ring).chain([container_port(port_name::PROBE, port::PROBE)]).collect()
}

fn container_port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number.into(),
        protocol: Some("TCP".into()),
        ..Default::default()
    }
}

fn http_probe(port: &str, path: &str, period: i32, timeout: i32, failures: i32) -> Probe {
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

/// Returns a liveness probe. A process that fails it is hung and cannot finish requests, so its grace period is short.
fn liveness_probe(port: &str, path: &str) -> Probe {
    Probe { termination_grace_period_seconds: Some(HUNG_SECONDS), ..http_probe(port, path, 10, 5, 3) }
}

/// Returns the hook that delays the end of a container.
fn wait_before_stop() -> Lifecycle {
    let sleep = SleepAction { seconds: PRE_STOP_SECONDS };
    Lifecycle { pre_stop: Some(LifecycleHandler { sleep: Some(sleep), ..Default::default() }), ..Default::default() }
}

/// Returns true if a container ends without a hook of the user: the operator made the container and its hook.
pub(super) fn ends_as_built(container: &Container) -> bool {
    let is_known = [HEAD, RANK].contains(&container.name.as_str());
    is_known && container.lifecycle.as_ref().is_none_or(|hook| *hook == wait_before_stop())
}

fn set_head_probes(container: &mut Container, has_tls: bool) {
    let over = |mut probe: Probe| {
        if let Some(action) = &mut probe.http_get {
            action.scheme = has_tls.then(|| "HTTPS".into());
        }
        Some(probe)
    };
    container.startup_probe = over(http_probe(port_name::HTTP, "/health", 1, 5, 120));
    container.liveness_probe = over(liveness_probe(port_name::HTTP, "/health"));
    container.readiness_probe = over(http_probe(port_name::HTTP, "/accepting", 1, 2, 2));
}

/// Sets the probes of a worker. The startup probe is one long request, which the rank answers when it has loaded.
fn set_worker_probes(container: &mut Container) {
    container.startup_probe = Some(http_probe(port_name::PROBE, "/startup", 1, LOADING_SECONDS, STARTUP_FAILURES));
    container.liveness_probe = Some(liveness_probe(port_name::PROBE, "/live"));
    container.readiness_probe = Some(http_probe(port_name::PROBE, "/ready", 2, 2, 1));
}

/// Sets the probes of the ranks in the head pod. The readiness of the head pod depends only on the head, which accepts
/// and queues requests even if the group has lost a rank. A readiness or startup probe of these ranks would take the
/// pod out of the client Service. The head's `Cluster` service reports the state of these ranks.
fn set_head_rank_probes(container: &mut Container) {
    let probe = liveness_probe(port_name::PROBE, "/live");
    container.liveness_probe = Some(Probe { initial_delay_seconds: Some(10), ..probe });
}

/// Fills in defaults after the overlays are merged. Earlier defaults of resources could contradict the limits of an
/// overlay. A sidecar without a security context gets the fewest rights.
pub(super) fn fill_in_defaults(template: &mut PodTemplateSpec) {
    let Some(spec) = &mut template.spec else { return };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.security_context.get_or_insert_with(unprivileged);
        if container.name == HEAD {
            add_head_requests(container.resources.get_or_insert_default());
        }
    }
}

fn add_head_requests(resources: &mut ResourceRequirements) {
    let limits = resources.limits.clone().unwrap_or_default();
    let requests: &mut BTreeMap<_, _> = resources.requests.get_or_insert_default();
    for (resource, amount) in HEAD_REQUESTS {
        // Kubernetes takes a limit without a request as the request.
        if !limits.contains_key(resource) {
            requests.entry(resource.into()).or_insert_with(|| Quantity(amount.into()));
        }
    }
    if requests.is_empty() {
        resources.requests = None;
    }
}
