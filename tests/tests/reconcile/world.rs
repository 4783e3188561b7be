//! A namespace with an operator of its own, and functions that look at the namespace's objects.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lockstep_tests::cluster::{Namespace, eventually, fake_nodes, kubectl};
use lockstep_tests::manifests;
use lockstep_tests::process::{Process, free_port, program};
use serde_json::Value;

/// Longest wait for the operator and the controllers, on a busy machine.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Image of the agent in the operators' configuration. Nothing pulls it: kwok's pods only seem to run.
pub const IMAGE: &str = "registry.example/agent:1";

/// Number of fake nodes that every trial may use: 64 processors and 8 GPUs each.
pub const NODES: u32 = 2;

/// Running operator.
pub struct Operator {
    process: Process,
    port: u16,
}

impl Operator {
    /// Starts an operator for `namespace`, with more arguments.
    pub fn start(namespace: &str, image: &str, more: &[&str]) -> Self {
        Self::start_with(namespace, image, |command| {
            command.args(more);
        })
    }

    /// Starts an operator for `namespace` with the kubeconfig in the file `kubeconfig`.
    pub fn start_as(namespace: &str, kubeconfig: &Path) -> Self {
        Self::start_with(namespace, IMAGE, |command| {
            command.arg("--no-leader-election").env("KUBECONFIG", kubeconfig);
        })
    }

    fn start_with(namespace: &str, image: &str, complete: impl FnOnce(&mut Command)) -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let mut command = Command::new(program("lockstep-operator"));
        command.args(["run", "--agent-image", image, "--listen", &listen, "--watch-namespaces", namespace]);
        complete(&mut command);
        Self { process: Process::start("lockstep-operator", command), port }
    }

    /// Sends SIGKILL: the operator has no time to log or write anything.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn output(&self) -> String {
        self.process.all_output()
    }

    /// Returns the sum of all series whose name and labels begin with `series`.
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

/// Namespace and its operator.
pub struct World {
    pub namespace: Namespace,
    pub operator: Operator,
}

impl World {
    /// Makes a namespace with an operator, in a cluster that has the CRD and fake nodes.
    pub fn new(name: &str) -> Result<Self> {
        let namespace = prepare_namespace(name)?;
        let operator = Operator::start(namespace.name(), IMAGE, &["--no-leader-election"]);
        Ok(Self { namespace, operator })
    }

    /// Starts the operator again, and kills it before if it still runs.
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

    /// Applies a merge patch to a cluster.
    pub fn change(&self, name: &str, patch: &str) -> Result<()> {
        self.kubectl(&["patch", "icl", name, "--type=merge", "-p", patch]).map(drop)
    }

    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["get", kind, name, "-o", "json"])?)?)
    }

    /// Returns the objects of some kinds (`services,pods`) with the labels of one cluster.
    pub fn list(&self, kinds: &str, cluster: &str) -> Result<Vec<Value>> {
        let selector = format!("lockstep.dev/cluster={cluster}");
        let listed: Value = serde_json::from_str(&self.kubectl(&["get", kinds, "-l", &selector, "-o", "json"])?)?;
        Ok(listed["items"].as_array().cloned().unwrap_or_default())
    }

    /// Returns the uids of a cluster's pods, by name.
    pub fn pods(&self, cluster: &str) -> Result<BTreeMap<String, String>> {
        let uid = |pod: Value| (name_of(&pod), pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
        Ok(self.list("pods", cluster)?.into_iter().map(uid).collect())
    }

    /// Returns the status of a condition, its reason and its message.
    pub fn condition(&self, cluster: &str, kind: &str) -> Result<(String, String, String)> {
        let object = self.get("icl", cluster)?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind);
        let found = found.with_context(|| format!("{cluster} has no condition {kind}"))?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("reason"), text("message")))
    }

    /// Waits until the condition has this status and reason, and returns its message.
    pub fn await_condition(&self, cluster: &str, kind: &str, status: &str, reason: &str) -> Result<String> {
        self.eventually(&format!("{cluster} to be {kind}={status} for {reason}"), || {
            let (is, why, message) = self.condition(cluster, kind)?;
            ensure!(is == status && why == reason, "it is {is} for {why}: {message}");
            Ok(message)
        })
    }

    /// Waits until all groups serve, as kwok's pods show it, and the status belongs to the newest spec.
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

    /// Works like `eventually`, and adds the operator's last lines to the error.
    pub fn eventually<T>(&self, what: &str, look: impl FnMut() -> Result<T>) -> Result<T> {
        eventually(what, LONGEST_WAIT, look).map_err(|error| {
            let output = self.operator.output();
            let lines: Vec<_> = output.lines().rev().take(30).collect();
            let lines: Vec<_> = lines.into_iter().rev().collect();
            error.context(format!("the operator's last words:\n{}", lines.join("\n")))
        })
    }

    /// Returns the names of all objects in the namespace except events, as `kind.group/name`.
    pub fn everything(&self) -> Result<BTreeSet<String>> {
        let kinds = kubectl(&["api-resources", "--namespaced", "--verbs=list", "-o", "name"])?;
        let kinds: Vec<_> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        let listed = self.kubectl(&["get", &kinds.join(","), "-o", "name"])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }
}

/// Makes a namespace in a cluster that has the CRD and fake nodes.
pub fn prepare_namespace(name: &str) -> Result<Namespace> {
    kubectl(&["apply", "-k", &manifests::path("deploy/crd").to_string_lossy()])?;
    kubectl(&["wait", "--for=condition=Established", "crd/inferenceclusters.lockstep.dev", "--timeout=30s"])?;
    fake_nodes(NODES)?;
    let namespace = Namespace::new(name)?;
    eventually("the kind to be served", LONGEST_WAIT, || namespace.kubectl(&["get", "icl"]).map(drop))?;
    Ok(namespace)
}

/// Returns a manifest with pods on fake nodes. Its drain timeout is a second, because heads on fake nodes answer no
/// request.
pub fn cluster(name: &str, spec: &str) -> String {
    let comma = if spec.is_empty() { "" } else { ", " };
    let spec = format!(
        "{{ model: {{ source: builtin://tiny }}, template: {{ spec: {{ nodeSelector: {{ type: fake }}, \
         tolerations: [{{ key: nvidia.com/gpu, operator: Exists }}] }} }}{comma}{spec} }}"
    );
    manifests::cluster(name, &spec)
}

/// Update strategy with a short drain, for `spec`.
pub const FAST: &str = "updateStrategy: { drainTimeout: 1s }";

pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Returns `kind/name` of an object.
pub fn title(object: &Value) -> String {
    format!("{}/{}", object["kind"].as_str().unwrap_or_default(), name_of(object))
}

/// Returns the pods of one group.
pub fn group_pods(pods: &[Value], group: u32) -> impl Iterator<Item = &Value> {
    let label = |pod: &Value| pod["metadata"]["labels"]["lockstep.dev/group"].as_str()?.parse::<u32>().ok();
    pods.iter().filter(move |pod| label(pod) == Some(group))
}
