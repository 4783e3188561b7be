//! What one machine can run of an `InferenceCluster`, and how its plan becomes processes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::Path;

use lockstep_proto::names::env;

use super::LOOPBACK;
use super::member::Member;
use crate::plan::{self, Addresses, GroupPlan, LocalPorts, PodPlan, Role, world_size};
use crate::resource::{Backend, InferenceCluster, InferenceClusterSpec};

/// Where free ports are looked for.
const FIRST_FREE_PORT: u16 = 22_000;
const FREE_PORTS: u32 = 10_000;
/// How long an agent may drain when the group ends: less than it is waited for.
const DRAIN_TIMEOUT: &str = "5s";

#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum LocalError {
    #[error("spec.model.source: {scheme}:// needs Kubernetes; `lockstep up` takes hf://, file:// and builtin://")]
    Source { scheme: String },
    #[error("spec.model.source: there is no folder {folder}; a relative file:// is relative to the YAML file")]
    NoModel { folder: String },
    #[error("spec.replicas is {0}: several groups behind one endpoint need Kubernetes; set it to 1 for `lockstep up`")]
    Replicas(u32),
    #[error("spec.replicas is 0, so nothing would run; set it to 1")]
    NoReplicas,
    #[error("spec.backend is Nccl, and `lockstep up` runs the ring over loopback; set it to Auto or Ring")]
    Nccl,
    #[error("port {port} of {host} cannot be had ({source}); give another with {flag}, or none for a free one")]
    Port { host: IpAddr, port: u16, flag: &'static str, source: std::io::Error },
}

/// Refuses by name what needs Kubernetes.
pub(super) fn check(spec: &InferenceClusterSpec) -> Result<(), LocalError> {
    match spec.replicas {
        0 => return Err(LocalError::NoReplicas),
        1 => {}
        replicas => return Err(LocalError::Replicas(replicas)),
    }
    if spec.backend == Backend::Nccl {
        return Err(LocalError::Nccl);
    }
    match spec.model.source.strip_prefix("file://") {
        Some(folder) if !Path::new(folder).is_dir() => Err(LocalError::NoModel { folder: folder.to_owned() }),
        _ => Ok(()),
    }
}

/// Makes a relative `file://` absolute: it is relative to the manifest.
pub(in crate::cli) fn settle(cluster: &mut InferenceCluster, manifest: &Path) -> anyhow::Result<()> {
    let source = &mut cluster.spec.model.source;
    let (scheme, rest) = source.split_once("://").unwrap_or(("", source));
    match scheme {
        "file" => {
            let folder = std::path::absolute(manifest.parent().unwrap_or(Path::new("")).join(rest))?;
            // Resolved where it can be, so that `..` does not show in logs.
            let folder = folder.canonicalize().unwrap_or(folder);
            *source = format!("file://{}", folder.display());
            Ok(())
        }
        "builtin" | "hf" => Ok(()),
        other => Err(LocalError::Source { scheme: other.to_owned() }.into()),
    }
}

/// What is said before anything runs: the group, its endpoints, and what of the spec changes nothing here.
pub(super) fn greeting(cluster: &InferenceCluster, group: &GroupPlan, host: IpAddr, ports: LocalPorts) -> Vec<String> {
    let nodes = 1 + group.workers.len();
    let mut lines = vec![
        format!(
            "{}: {} on {nodes} nodes",
            group.head.name.trim_end_matches("-head-0"),
            plan::describe_ranks(group.world_size, group.pipeline_parallel_size)
        ),
        format!("gRPC on {host}:{}, OpenAI-compatible HTTP on {host}:{}", ports.grpc, ports.http),
    ];
    lines.extend(without_effect(&cluster.spec));
    lines
}

fn without_effect(spec: &InferenceClusterSpec) -> Option<String> {
    let shapes = [
        ("template", spec.template.is_some()),
        ("head", spec.head.is_some()),
        ("worker", spec.worker.is_some()),
        ("resources", spec.resources.is_some()),
        ("image", spec.image.is_some()),
        ("env", !spec.env.is_empty()),
        ("modelCache", spec.model_cache.is_some()),
        ("model.tokenSecretRef", spec.model.token_secret_ref.is_some()),
        ("autoscaling", spec.autoscaling.is_some()),
    ];
    let given: Vec<_> = shapes.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    (!given.is_empty()).then(|| format!("without effect here, because it shapes pods: spec.{}", given.join(", spec.")))
}

/// Threads of each rank: the machine's, divided.
pub(in crate::cli) fn threads_per_rank(spec: &InferenceClusterSpec) -> u32 {
    let machine = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u32);
    (machine / world_size(spec)).max(1)
}

/// Ports as given, free ones otherwise; all different.
pub(super) fn ports(host: IpAddr, grpc: Option<u16>, http: Option<u16>) -> Result<LocalPorts, LocalError> {
    let bind = |host: IpAddr, given: Option<u16>, flag| {
        let taken = |source| LocalError::Port { host, port: given.unwrap_or(0), flag, source };
        let listener = match given {
            Some(port) => TcpListener::bind((host, port)),
            None => free(host),
        };
        let listener = listener.map_err(taken)?;
        let port = listener.local_addr().map_err(taken)?.port();
        Ok((listener, port))
    };
    // All are held until all are found, so that none is found twice.
    let (_grpc, grpc) = bind(host, grpc, "--grpc-port")?;
    let (_http, http) = bind(host, http, "--http-port")?;
    let (_control, control) = bind(Ipv4Addr::LOCALHOST.into(), None, "--host")?;
    Ok(LocalPorts { grpc, http, control })
}

/// A free port below those that the system gives to whoever asks it for any, on Linux from 32768 on: one of those could
/// be somebody else's by the time the agent binds it. Processes begin to look at different ones.
fn free(host: IpAddr) -> std::io::Result<TcpListener> {
    let own = std::process::id().wrapping_mul(97);
    let ports = (0..FREE_PORTS).map(|next| FIRST_FREE_PORT + (own.wrapping_add(next) % FREE_PORTS) as u16);
    let mut listeners = ports.filter_map(|port| TcpListener::bind((host, port)).ok());
    listeners.next().map_or_else(|| TcpListener::bind((host, 0)), Ok)
}

pub(super) fn addresses(host: IpAddr, ports: LocalPorts, spec: &InferenceClusterSpec) -> Addresses {
    Addresses::Local { host: host.to_string(), ports, threads: threads_per_rank(spec) }
}

/// Where a client on this machine reaches what binds to `host`.
pub(super) fn reached(host: IpAddr) -> String {
    match host {
        IpAddr::V4(host) if host.is_unspecified() => LOOPBACK.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.to_string(),
        host => host.to_string(),
    }
}

/// The processes of `group`, each run by `program` with the plan's arguments and environment.
pub(super) fn members(group: &GroupPlan, program: &Path) -> Vec<Member> {
    let said = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let drain = std::env::var_os(env::DRAIN_TIMEOUT).is_none().then(|| said(env::DRAIN_TIMEOUT, DRAIN_TIMEOUT));
    let process = |pod: &PodPlan| pod.containers[0].clone();
    let member = |(index, pod): (usize, &PodPlan)| Member {
        name: match pod.role {
            Role::Head => "head".into(),
            Role::Worker(ordinal) => format!("worker-{ordinal}"),
        },
        index,
        is_head: pod.role == Role::Head,
        program: program.to_owned(),
        arguments: process(pod).command.split_off(1),
        variables: process(pod)
            .env
            .iter()
            .map(|var| said(var.name, &var.value))
            .chain(drain.clone())
            .chain([said(env::FOLLOW_PARENT, "1")])
            .collect(),
    };
    group.pods().enumerate().map(member).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, TcpListener};

    use super::{check, members, ports, settle, without_effect};
    use crate::plan::{Addresses, LocalPorts, plan};
    use crate::resource::testing::cluster;

    #[test]
    fn what_needs_kubernetes_is_refused_by_name() {
        for (spec, told) in [
            ("{ model: { source: 'builtin://tiny' } }", None),
            ("{ model: { source: 'file:///nowhere/at/all' } }", Some("no folder /nowhere/at/all")),
            ("{ model: { source: 'builtin://tiny' }, replicas: 2 }", Some("spec.replicas is 2")),
            ("{ model: { source: 'builtin://tiny' }, replicas: 0 }", Some("nothing would run")),
            ("{ model: { source: 'builtin://tiny' }, backend: Nccl }", Some("spec.backend is Nccl")),
        ] {
            let said = check(&cluster(spec).spec).err().map(|error| error.to_string());
            assert_eq!(said.is_some(), told.is_some(), "{spec}: {said:?}");
            assert!(said.unwrap_or_default().contains(told.unwrap_or_default()), "{spec}");
        }
        for scheme in ["pvc", "oci"] {
            let mut cluster = cluster("{ model: { source: 'builtin://tiny' } }");
            cluster.spec.model.source = format!("{scheme}://x");
            let said = settle(&mut cluster, "a.yaml".as_ref()).unwrap_err().to_string();
            assert!(said.contains(&format!("{scheme}:// needs Kubernetes")), "{said}");
        }
    }

    #[test]
    fn a_relative_model_is_relative_to_the_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["models/m", "yaml"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        let mut cluster = cluster("{ model: { source: 'file://../models/m' } }");
        settle(&mut cluster, &root.join("yaml/a.yaml")).unwrap();
        assert_eq!(cluster.spec.model.source, format!("file://{}", root.join("models/m").display()));
        assert!(check(&cluster.spec).is_ok());
    }

    #[test]
    fn overlays_are_said_to_change_nothing() {
        let spec = cluster("{ model: { source: 'builtin://tiny' }, template: { a: 1 }, worker: {} }").spec;
        assert!(without_effect(&spec).unwrap().ends_with("spec.template, spec.worker"));
    }

    #[test]
    fn ports_are_free_and_different() {
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let found = ports(host, None, None).unwrap();
        assert!(found.grpc != found.http && found.http != found.control && found.grpc != found.control);
        assert!([found.grpc, found.http, found.control].iter().all(|port| *port < 32_768), "nobody else is given it");
        let taken = TcpListener::bind((host, 0)).unwrap();
        let told = ports(host, None, Some(taken.local_addr().unwrap().port())).unwrap_err().to_string();
        assert!(told.contains("--http-port"), "{told}");
    }

    #[test]
    fn processes_follow_the_plan_and_their_parent() {
        let cluster = cluster("{ model: { source: 'builtin://tiny' }, workers: 1 }");
        let ports = LocalPorts { grpc: 1, http: 2, control: 3 };
        let plan = plan(&cluster, &Addresses::Local { host: "127.0.0.1".into(), ports, threads: 1 });
        let members = members(&plan.groups[0], "/agent".as_ref());
        assert_eq!(members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["head", "worker-0"]);
        for member in members {
            assert_eq!(member.arguments, ["plain", "-m", "builtin://tiny"]);
            assert!(member.variables.contains(&("LOCKSTEP_FOLLOW_PARENT".into(), "1".into())));
        }
    }
}
