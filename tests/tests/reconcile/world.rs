//! A namespace with an operator of its own that looks after it, and looks at what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::cluster::{Namespace, eventually, fake_nodes, kubectl};
use lockstep_tests::manifests;
use lockstep_tests::process::{Process, free_port, program};
use serde_json::Value;

/// For what the operator and the controllers do, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Image of the agent that operators are told; nothing pulls it: kwok's pods only seem to run.
pub const IMAGE: &str = "registry.example/agent:1";

/// Fake nodes that every trial may use: 64 processors and 8 GPUs each.
pub const NODES: u32 = 2;

/// A running operator.
pub struct Operator {
    process: Process,
    port: u16,
}

impl Operator {
    /// Starts one for `namespace`, with more arguments.
    pub fn start(namespace: &str, image: &str, more: &[&str]) -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let mut command = Command::new(program("lockstep-operator"));
        command.args(["run", "--agent-image", image, "--listen", &listen, "--watch-namespaces", namespace]).args(more);
        Self { process: Process::start("lockstep-operator", command), port }
    }

    /// SIGKILL: it has no time to say or write anything.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn output(&self) -> String {
        self.process.output()
    }

    /// The sum of all series whose name and labels begin so.
    pub fn metric(&self, series: &str) -> Result<f64> {
        let mut page = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).context("the operator's metrics")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        stream.read_to_string(&mut page).context("read the operator's metrics")?;
        ensure!(page.contains("\n# EOF"), "no metrics: {page}");
        let values = page.lines().filter(|line| line.starts_with(series)).filter_map(|line| line.split(' ').nth(1));
        Ok(values.filter_map(|value| value.parse::<f64>().ok()).sum())
    }

    pub fn leads(&self) -> Result<bool> {
        Ok(self.metric("lockstep_operator_leader")? > 0.5)
    }
}

/// A namespace and its operator.
pub struct World {
    pub namespace: Namespace,
    pub operator: Operator,
}

impl World {
    /// With the CRD and fake nodes there.
    pub fn new(name: &str) -> Result<Self> {
        let namespace = prepared(name)?;
        let operator = Operator::start(namespace.name(), IMAGE, &["--no-leader-election"]);
        Ok(Self { namespace, operator })
    }

    /// Starts the operator again, which was killed or is now.
    pub fn restart(&mut self, image: &str) {
        self.operator.kill();
        self.operator = Operator::start(self.namespace.name(), image, &["--no-leader-election"]);
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.namespace.kubectl(arguments)
    }

    /// Applies a cluster whose pods go to fake nodes; `spec` is laid into it as flow YAML.
    pub fn apply(&self, name: &str, spec: &str) -> Result<()> {
        self.namespace.apply(&cluster(name, spec)).map(drop)
    }

    /// A merge patch of a cluster.
    pub fn change(&self, name: &str, patch: &str) -> Result<()> {
        self.kubectl(&["patch", "icl", name, "--type=merge", "-p", patch]).map(drop)
    }

    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["get", kind, name, "-o", "json"])?)?)
    }

    /// Objects of some kinds (`services,pods`) with labels of one cluster.
    pub fn list(&self, kinds: &str, cluster: &str) -> Result<Vec<Value>> {
        let selector = format!("lockstep.dev/cluster={cluster}");
        let listed: Value = serde_json::from_str(&self.kubectl(&["get", kinds, "-l", &selector, "-o", "json"])?)?;
        Ok(listed["items"].as_array().cloned().unwrap_or_default())
    }

    /// Uids of a cluster's pods, by name.
    pub fn pods(&self, cluster: &str) -> Result<BTreeMap<String, String>> {
        let uid = |pod: Value| (name_of(&pod), pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
        Ok(self.list("pods", cluster)?.into_iter().map(uid).collect())
    }

    /// The status of a condition, its reason and message.
    pub fn condition(&self, cluster: &str, kind: &str) -> Result<(String, String, String)> {
        let object = self.get("icl", cluster)?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind);
        let found = found.with_context(|| format!("{cluster} has no condition {kind}"))?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("reason"), text("message")))
    }

    /// Waits until the condition has this status and reason; returns its message.
    pub fn await_condition(&self, cluster: &str, kind: &str, status: &str, reason: &str) -> Result<String> {
        self.eventually(&format!("{cluster} to be {kind}={status} for {reason}"), || {
            let (is, why, message) = self.condition(cluster, kind)?;
            ensure!(is == status && why == reason, "it is {is} for {why}: {message}");
            Ok(message)
        })
    }

    /// Waits until all groups serve, as the pods that kwok plays show it, and the status is of the newest spec.
    pub fn await_settled(&self, cluster: &str) -> Result<()> {
        self.eventually(&format!("{cluster} to be settled"), || {
            let object = self.get("icl", cluster)?;
            let status = &object["status"];
            let generation = &object["metadata"]["generation"];
            ensure!(&status["observedGeneration"] == generation, "the status is not of {generation}: {status}");
            let holds = |kind: &str, value: &str| {
                status["conditions"].as_array().is_some_and(|all| {
                    all.iter().any(|one| {
                        one["type"] == kind && one["status"] == value && &one["observedGeneration"] == generation
                    })
                })
            };
            let wanted = &object["spec"]["replicas"];
            ensure!(holds("Progressing", "False") && holds("Degraded", "False"), "{}", status["conditions"]);
            ensure!(wanted == 0 || holds("Ready", "True"), "{}", status["conditions"]);
            for count in ["replicas", "readyReplicas"] {
                ensure!(&status[count] == wanted, "{count} is {}, not {wanted}", status[count]);
            }
            Ok(())
        })
    }

    /// As `eventually`, with the operator's last words.
    pub fn eventually<T>(&self, what: &str, look: impl FnMut() -> Result<T>) -> Result<T> {
        eventually(what, PATIENCE, look).map_err(|error| {
            let output = self.operator.output();
            let lines: Vec<_> = output.lines().rev().take(30).collect();
            let lines: Vec<_> = lines.into_iter().rev().collect();
            error.context(format!("the operator's last words:\n{}", lines.join("\n")))
        })
    }

    /// Names of all objects in the namespace but events, as `kind.group/name`.
    pub fn everything(&self) -> Result<BTreeSet<String>> {
        let kinds = kubectl(&["api-resources", "--namespaced", "--verbs=list", "-o", "name"])?;
        let kinds: Vec<_> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        let listed = self.kubectl(&["get", &kinds.join(","), "-o", "name"])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }
}

/// A namespace in a cluster that has the CRD and fake nodes.
pub fn prepared(name: &str) -> Result<Namespace> {
    kubectl(&["apply", "-k", &manifests::path("deploy/crd").to_string_lossy()])?;
    kubectl(&["wait", "--for=condition=Established", "crd/inferenceclusters.lockstep.dev", "--timeout=30s"])?;
    fake_nodes(NODES)?;
    let namespace = Namespace::new(name)?;
    eventually("the kind to be served", PATIENCE, || namespace.kubectl(&["get", "icl"]).map(drop))?;
    Ok(namespace)
}

/// A manifest with pods on fake nodes, which drains for a second only: kwok's heads answer nobody.
pub fn cluster(name: &str, spec: &str) -> String {
    let comma = if spec.is_empty() { "" } else { ", " };
    let spec = format!(
        "{{ model: {{ source: builtin://tiny }}, template: {{ spec: {{ nodeSelector: {{ type: fake }}, \
         tolerations: [{{ key: nvidia.com/gpu, operator: Exists }}] }} }}{comma}{spec} }}"
    );
    manifests::cluster(name, &spec)
}

/// An update strategy, for `spec`.
pub const FAST: &str = "updateStrategy: { drainTimeout: 1s }";

pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// `kind/name`.
pub fn title(object: &Value) -> String {
    format!("{}/{}", object["kind"].as_str().unwrap_or_default(), name_of(object))
}

/// The pods of one group.
pub fn group_pods(pods: &[Value], group: u32) -> impl Iterator<Item = &Value> {
    let label = |pod: &Value| pod["metadata"]["labels"]["lockstep.dev/group"].as_str()?.parse::<u32>().ok();
    pods.iter().filter(move |pod| label(pod) == Some(group))
}
