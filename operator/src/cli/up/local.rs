//! Checks that one machine can run an `InferenceCluster`, and turns its plan into processes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use lockstep_proto::names::env;

use super::member::Member;
use crate::plan::{self, Addresses, GroupPlan, LocalPorts, PodPlan, Role, world_size};
use crate::resource::{Backend, InferenceCluster, InferenceClusterSpec};

/// First port of the range that is searched for free ports.
const FIRST_FREE_PORT: u16 = 22_000;
/// Number of ports in that range.
const FREE_PORTS: u32 = 10_000;
/// Time for which an agent may drain when the group ends. It is shorter than the time for which `lockstep up` waits.
const DRAIN_TIMEOUT: &str = "5s";

#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum LocalError {
    #[error("spec.model.source: {scheme}:// needs Kubernetes; `lockstep up` takes hf://, file:// and builtin://")]
    Source { scheme: String },
    #[error(
        "spec.model.source: there is no folder or GGUF file {path}; a relative path starts at the folder of the YAML file"
    )]
    NoModel { path: String },
    #[error(
        "spec.replicas is {0}, and only Kubernetes can run several groups behind one endpoint; set it to 1 for `lockstep up`"
    )]
    Replicas(u32),
    #[error("spec.replicas is 0, so nothing would run; set it to 1")]
    NoReplicas,
    #[error("spec.backend is Nccl, but `lockstep up` runs the ring over loopback; set it to Auto or Ring")]
    Nccl,
    #[error(
        "cannot bind port {port} of {host} ({source}); give another port with {flag}, or omit {flag} to take a free port"
    )]
    Port { host: IpAddr, port: u16, flag: &'static str, source: std::io::Error },
}

/// Refuses a spec that only Kubernetes can run.
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
        Some(path) if !Path::new(path).exists() => Err(LocalError::NoModel { path: path.to_owned() }),
        _ => Ok(()),
    }
}

/// Makes a relative `file://` path absolute. It starts at the folder of the manifest. Refuses sources that need
/// Kubernetes.
pub(in crate::cli) fn resolve_source(cluster: &mut InferenceCluster, manifest: &Path) -> anyhow::Result<()> {
    let source = &mut cluster.spec.model.source;
    let (scheme, rest) = source.split_once("://").unwrap_or(("", source));
    match scheme {
        "file" => {
            let path = std::path::absolute(manifest.parent().unwrap_or(Path::new("")).join(rest))?;
            // The path is canonicalized if it exists, so that no `..` shows in logs. A link keeps its name: the name of a
            // GGUF file says if there are more parts.
            let path = if path.is_dir() { path.canonicalize().unwrap_or(path) } else { path };
            *source = format!("file://{}", path.display());
            Ok(())
        }
        "builtin" | "hf" => Ok(()),
        other => Err(LocalError::Source { scheme: other.to_owned() }.into()),
    }
}

/// Describes the group before it runs: its ranks, its endpoints, and the fields of the spec that have no effect.
pub(super) fn describe_group(
    cluster: &InferenceCluster,
    group: &GroupPlan,
    host: IpAddr,
    ports: LocalPorts,
) -> Vec<String> {
    let nodes = 1 + group.workers.len();
    let mut lines = vec![
        format!(
            "{}: {} on {nodes} nodes",
            group.head.name.trim_end_matches("-head-0"),
            plan::describe_ranks(group.world_size, group.pipeline_parallel_size)
        ),
        format!("gRPC on {host}:{}, OpenAI-compatible HTTP on {host}:{}", ports.grpc, ports.http),
        format!("chat: {}", chat_page(host, ports.http)),
    ];
    lines.extend(describe_ignored_fields(&cluster.spec));
    lines
}

/// Returns the address of the chat page, for a browser on this machine.
fn chat_page(host: IpAddr, port: u16) -> String {
    format!("http://{}/", SocketAddr::new(client_address(host), port))
}

/// Names the fields of the spec that have no effect because they only shape pods.
fn describe_ignored_fields(spec: &InferenceClusterSpec) -> Option<String> {
    let pod_fields = [
        ("template", spec.template.is_some()),
        ("head", spec.head.is_some()),
        ("worker", spec.worker.is_some()),
        ("resources", spec.resources.is_some()),
        ("image", spec.image.is_some()),
        ("env", !spec.env.is_empty()),
        ("modelCache", spec.model_cache.is_some()),
        ("model.tokenSecretRef", spec.model.token_secret_ref.is_some()),
        ("serving.apiKeysSecretRef", spec.serving.api_keys_secret_ref.is_some()),
        ("serving.tlsSecretRef", spec.serving.has_tls()),
        ("autoscaling", spec.autoscaling.is_some()),
    ];
    let given: Vec<_> = pod_fields.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    (!given.is_empty()).then(|| format!("no effect without Kubernetes: spec.{}", given.join(", spec.")))
}

/// Returns the number of threads of each rank. The ranks divide the machine's threads.
pub(in crate::cli) fn threads_per_rank(spec: &InferenceClusterSpec) -> u32 {
    let machine = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u32);
    (machine / world_size(spec)).max(1)
}

/// Returns the given ports, and a free port for each that is not given. All are different.
pub(super) fn take_ports(host: IpAddr, grpc: Option<u16>, http: Option<u16>) -> Result<LocalPorts, LocalError> {
    let bind = |host: IpAddr, given: Option<u16>, flag| {
        let cannot_bind = |source| LocalError::Port { host, port: given.unwrap_or(0), flag, source };
        let listener = match given {
            Some(port) => TcpListener::bind((host, port)),
            None => bind_free_port(host),
        };
        let listener = listener.map_err(cannot_bind)?;
        let port = listener.local_addr().map_err(cannot_bind)?.port();
        Ok((listener, port))
    };
    // All listeners stay open until the last port is found, so that no port is found twice.
    let (_grpc, grpc) = bind(host, grpc, "--grpc-port")?;
    let (_http, http) = bind(host, http, "--http-port")?;
    let (_control, control) = bind(Ipv4Addr::LOCALHOST.into(), None, "--host")?;
    Ok(LocalPorts { grpc, http, control })
}

/// Binds a free port below the ephemeral ports, which Linux gives out from 32768 on. The system could give an ephemeral
/// port to another program before the agent binds it. Different processes start their search at different ports.
fn bind_free_port(host: IpAddr) -> std::io::Result<TcpListener> {
    let start = std::process::id().wrapping_mul(97);
    let ports = (0..FREE_PORTS).map(|next| FIRST_FREE_PORT + (start.wrapping_add(next) % FREE_PORTS) as u16);
    let mut listeners = ports.filter_map(|port| TcpListener::bind((host, port)).ok());
    listeners.next().map_or_else(|| TcpListener::bind((host, 0)), Ok)
}

/// Returns the addresses of a group on this machine.
pub(super) fn addresses(host: IpAddr, ports: LocalPorts, spec: &InferenceClusterSpec) -> Addresses {
    Addresses::Local { host: host.to_string(), ports, threads: threads_per_rank(spec) }
}

/// Returns the address at which a client on this machine reaches a port that is bound to `host`.
pub(super) fn client_address(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    }
}

/// Returns the processes of `group`. Each runs `program` with the arguments and environment of the plan.
pub(super) fn members(group: &GroupPlan, program: &Path) -> Vec<Member> {
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let drain = std::env::var_os(env::DRAIN_TIMEOUT).is_none().then(|| variable(env::DRAIN_TIMEOUT, DRAIN_TIMEOUT));
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
            .map(|var| variable(var.name, &var.value))
            .chain(drain.clone())
            .chain([variable(env::FOLLOW_PARENT, "1")])
            .collect(),
    };
    group.pods().enumerate().map(member).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, TcpListener};

    use super::{chat_page, check, describe_ignored_fields, members, resolve_source, take_ports};
    use crate::plan::{Addresses, LocalPorts, plan};
    use crate::resource::testing::cluster;

    #[test]
    fn specs_that_need_kubernetes_are_refused() {
        for (spec, expected) in [
            ("{ model: { source: 'builtin://tiny' } }", None),
            ("{ model: { source: 'file:///nowhere/at/all' } }", Some("no folder or GGUF file /nowhere/at/all")),
            ("{ model: { source: 'builtin://tiny' }, replicas: 2 }", Some("spec.replicas is 2")),
            ("{ model: { source: 'builtin://tiny' }, replicas: 0 }", Some("nothing would run")),
            ("{ model: { source: 'builtin://tiny' }, backend: Nccl }", Some("spec.backend is Nccl")),
        ] {
            let message = check(&cluster(spec).spec).err().map(|error| error.to_string());
            assert_eq!(message.is_some(), expected.is_some(), "{spec}: {message:?}");
            assert!(message.unwrap_or_default().contains(expected.unwrap_or_default()), "{spec}");
        }
        for scheme in ["pvc", "oci"] {
            let mut cluster = cluster("{ model: { source: 'builtin://tiny' } }");
            cluster.spec.model.source = format!("{scheme}://x");
            let message = resolve_source(&mut cluster, "a.yaml".as_ref()).unwrap_err().to_string();
            assert!(message.contains(&format!("{scheme}:// needs Kubernetes")), "{message}");
        }
    }

    #[test]
    fn a_relative_path_starts_at_the_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["models/m", "yaml"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        let mut cluster = cluster("{ model: { source: 'file://../models/m' } }");
        resolve_source(&mut cluster, &root.join("yaml/a.yaml")).unwrap();
        assert_eq!(cluster.spec.model.source, format!("file://{}", root.join("models/m").display()));
        assert!(check(&cluster.spec).is_ok());
    }

    #[test]
    fn fields_without_effect_are_named() {
        let spec = cluster("{ model: { source: 'builtin://tiny' }, template: { a: 1 }, worker: {} }").spec;
        assert!(describe_ignored_fields(&spec).unwrap().ends_with("spec.template, spec.worker"));
    }

    #[test]
    fn the_chat_page_has_an_address_for_a_browser() {
        for (host, expected) in [
            ("127.0.0.1", "http://127.0.0.1:1234/"),
            ("0.0.0.0", "http://127.0.0.1:1234/"),
            ("192.168.1.2", "http://192.168.1.2:1234/"),
            ("::", "http://[::1]:1234/"),
        ] {
            assert_eq!(chat_page(host.parse().unwrap(), 1234), expected);
        }
    }

    #[test]
    fn ports_are_free_and_different() {
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let found = take_ports(host, None, None).unwrap();
        assert!(found.grpc != found.http && found.http != found.control && found.grpc != found.control);
        assert!([found.grpc, found.http, found.control].iter().all(|port| *port < 32_768), "no ephemeral port");
        let taken = TcpListener::bind((host, 0)).unwrap();
        let message = take_ports(host, None, Some(taken.local_addr().unwrap().port())).unwrap_err().to_string();
        assert!(message.contains("--http-port"), "{message}");
    }

    #[test]
    fn processes_have_the_plans_arguments_and_follow_their_parent() {
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
