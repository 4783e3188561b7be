//! Group of agents as processes: the head and its workers, by each way of telling them their places.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lockstep_proto::v1::ClusterStatus;

use crate::client::Client;
use crate::process::{LONGEST_WAIT, Process, free_port, program};

/// Way in which ranks learn their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `MISTRALRS_MN_*`
    MultiNode,
    /// `RING_*`
    Ring,
    /// `RING_CONFIG`
    RingConfig,
}

/// Settings with which a group is started.
#[derive(Debug, Clone)]
pub struct Spec {
    pub way: Way,
    pub world_size: usize,
    pub model: String,
    /// Variables for all processes.
    pub variables: Vec<(String, String)>,
    /// True if the group runs as in pods: the head's ranks are a process of their own, and every node has a probe port.
    pub separate: bool,
    /// Variables for the head alone, and for the rank that the head starts as a child.
    pub head_variables: Vec<(String, String)>,
    /// Variables for the workers, and for the head's ranks if they are a process of their own.
    pub node_variables: Vec<(String, String)>,
    /// Surroundings of each node's process; empty: all nodes run as they are, on loopback.
    pub surroundings: Vec<Surroundings>,
}

/// Surroundings of a node's process.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Address at which clients and other nodes reach the node.
    pub address: String,
    /// Command that becomes the node's process, e.g. `nsenter --net=…`. The node's own command follows it.
    pub wrapper: Vec<String>,
}

impl Spec {
    pub fn new(way: Way, world_size: usize, model: impl Into<String>) -> Self {
        Self {
            way,
            world_size,
            model: model.into(),
            variables: Vec::new(),
            separate: false,
            head_variables: Vec::new(),
            node_variables: Vec::new(),
            surroundings: Vec::new(),
        }
    }

    /// Runs the head's ranks as a process of their own, with certificates for both kinds of processes.
    #[must_use]
    pub fn separate(mut self, head_tls: &Path, node_tls: &Path) -> Self {
        let variable = |folder: &Path| ("LOCKSTEP_TLS_DIR".to_owned(), folder.display().to_string());
        self.head_variables.extend([variable(head_tls), ("LOCKSTEP_HEAD_NODE".into(), "separate".into())]);
        self.node_variables.push(variable(node_tls));
        self.separate = true;
        self
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.push((name.into(), value.to_string()));
        self
    }
}

/// Running group. Node 0 is the head, which starts its own rank as a child unless [`Spec::separate`] is set.
pub struct Group {
    spec: Spec,
    control: u16,
    grpc: u16,
    http: u16,
    ring: Vec<u16>,
    probes: Vec<u16>,
    folder: tempfile::TempDir,
    /// Processes by node; `None`: the node does not run.
    pub nodes: Vec<Option<Process>>,
    /// Process of the head's ranks, if they are a process of their own.
    pub own_ranks: Option<Process>,
}

impl Group {
    /// Starts all processes.
    pub fn start(spec: Spec) -> Self {
        let mut group = Self::prepare(spec);
        group.start_all();
        group
    }

    /// Starts the processes that do not run.
    pub fn start_all(&mut self) {
        for node in 0..self.spec.world_size {
            if self.nodes[node].is_none() {
                self.start_node(node);
            }
        }
        if self.spec.separate && self.own_ranks.is_none() {
            self.start_own_ranks();
        }
    }

    /// Chooses ports, and starts no process.
    pub fn prepare(spec: Spec) -> Self {
        let ring = (0..spec.world_size).map(|_| free_port()).collect();
        let probes = (0..spec.world_size).map(|_| free_port()).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let nodes = (0..spec.world_size).map(|_| None).collect();
        let (control, grpc, http) = (free_port(), free_port(), free_port());
        Self { spec, control, grpc, http, ring, probes, folder, nodes, own_ranks: None }
    }

    /// Starts the ranks of the head, which run in a process of their own.
    pub fn start_own_ranks(&mut self) {
        let mut command = agent();
        command.args(["node", "--ordinal=0", "--local-world-size=1", "--ring-listen=0.0.0.0:0"]);
        command.arg(format!("--control=127.0.0.1:{}", self.control));
        command.arg(format!("--world-size={}", self.spec.world_size));
        command.env("LOCKSTEP_FOLLOW_PARENT", "1").envs(self.node_variables(0));
        self.own_ranks = Some(Process::start("own-ranks", command));
    }

    /// Returns the port at which a node answers probes.
    pub fn probe_port(&self, node: usize) -> u16 {
        self.probes[node]
    }

    fn node_variables(&self, node: usize) -> Vec<(String, String)> {
        let mut all = self.spec.variables.clone();
        all.extend(self.spec.node_variables.clone());
        if self.spec.separate {
            all.push(("LOCKSTEP_HOST".into(), "127.0.0.1".into()));
            all.push(("LOCKSTEP_PROBE_PORT".into(), self.probes[node].to_string()));
            all.push(("LOCKSTEP_ADVERTISE".into(), "127.0.0.1".into()));
        }
        all
    }

    /// Starts the head (0) or a worker. It must not run yet.
    pub fn start_node(&mut self, node: usize) {
        let process = Process::start(format!("node-{node}"), self.command(node));
        self.nodes[node] = Some(process);
    }

    /// Returns the command of a node.
    pub fn command(&self, node: usize) -> Command {
        let mut command = agent_under(self.spec.surroundings.get(node).map_or(&[], |around| &around.wrapper));
        command.arg("plain").arg("-m").arg(&self.spec.model);
        command.env("LOCKSTEP_HOST", self.address(node)).env("LOCKSTEP_FOLLOW_PARENT", "1");
        command.env("LOCKSTEP_HTTP_PORT", self.http.to_string()).env("LOCKSTEP_GRPC_PORT", self.grpc.to_string());
        let variables = match node {
            0 => [self.spec.variables.clone(), self.spec.head_variables.clone()].concat(),
            _ => self.node_variables(node),
        };
        command.envs(self.place(node)).envs(variables);
        command
    }

    fn place(&self, node: usize) -> BTreeMap<&'static str, String> {
        let size = self.spec.world_size;
        match self.spec.way {
            Way::MultiNode if size == 1 => BTreeMap::new(),
            Way::MultiNode if node == 0 => BTreeMap::from([
                ("MISTRALRS_MN_GLOBAL_WORLD_SIZE", size.to_string()),
                ("MISTRALRS_MN_HEAD_NUM_WORKERS", (size - 1).to_string()),
                ("MISTRALRS_MN_HEAD_PORT", self.control.to_string()),
                ("LOCKSTEP_RING_PORT", "0".into()),
                ("LOCKSTEP_GROUP_HOST", self.address(node).into()),
            ]),
            Way::MultiNode => BTreeMap::from([
                ("MISTRALRS_MN_GLOBAL_WORLD_SIZE", size.to_string()),
                ("MISTRALRS_MN_WORKER_ID", (node - 1).to_string()),
                ("MISTRALRS_MN_WORKER_SERVER_ADDR", format!("{}:{}", self.address(0), self.control)),
                ("LOCKSTEP_RING_PORT", "0".into()),
                ("LOCKSTEP_GROUP_HOST", self.address(node).into()),
            ]),
            Way::Ring => BTreeMap::from([
                ("RING_PORT", self.ring[node].to_string()),
                ("RING_RIGHT", self.ring[(node + 1) % size].to_string()),
                ("RING_RANK", node.to_string()),
                ("RING_WORLD_SIZE", size.to_string()),
            ]),
            Way::RingConfig => BTreeMap::from([("RING_CONFIG", self.ring_file(node).display().to_string())]),
        }
    }

    fn address(&self, node: usize) -> &str {
        self.spec.surroundings.get(node).map_or("127.0.0.1", |around| &around.address)
    }

    /// Returns the URL of the head's gRPC port.
    pub fn endpoint(&self) -> String {
        format!("http://{}:{}", self.address(0), self.grpc)
    }

    fn ring_file(&self, node: usize) -> PathBuf {
        let size = self.spec.world_size;
        let config = serde_json::json!({
            "master_ip": "127.0.0.1",
            "master_port": self.control,
            "port": self.ring[node],
            "right_port": self.ring[(node + 1) % size],
            "right_ip": "127.0.0.1",
            "rank": node,
            "world_size": size,
        });
        let path = self.folder.path().join(format!("ring-{node}.json"));
        std::fs::write(&path, config.to_string()).expect("write RING_CONFIG");
        path
    }

    pub fn grpc_port(&self) -> u16 {
        self.grpc
    }

    pub fn http_port(&self) -> u16 {
        self.http
    }

    pub fn control_port(&self) -> u16 {
        self.control
    }

    /// Connects a client to the endpoint, as soon as the head listens there.
    pub async fn client(&mut self) -> Client {
        let began = Instant::now();
        loop {
            if let Ok(client) = Client::connect(self.grpc).await {
                return client;
            }
            self.check(began, "its gRPC port");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the group is ready, and returns its status.
    pub async fn ready(&mut self) -> ClusterStatus {
        self.await_status("readiness", |status| status.ready).await
    }

    /// Waits until `holds` is true of the group's status, and returns the status.
    pub async fn await_status(&mut self, what: &str, holds: impl Fn(&ClusterStatus) -> bool) -> ClusterStatus {
        let began = Instant::now();
        let mut client = self.client().await;
        loop {
            let status = client.status().await;
            match status {
                Ok(status) if holds(&status) => return status,
                Ok(_) => (),
                Err(_) => client = self.client().await,
            }
            self.check(began, what);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn check(&mut self, began: Instant, what: &str) {
        let head = self.nodes[0].as_mut().expect("a running head");
        assert!(head.is_running(), "the head ended while the test waited for {what}");
        assert!(began.elapsed() < LONGEST_WAIT, "timed out while waiting for {what}");
    }
}

/// Makes a command of the agent, without those variables of the test's own environment that the agent would read.
pub fn agent() -> Command {
    agent_under(&[])
}

/// Makes a command like [`agent`] that the command `wrapper` runs.
fn agent_under(wrapper: &[String]) -> Command {
    let agent = program("lockstep-agent").into_os_string();
    let mut words = wrapper.iter().map(OsString::from).chain([agent]);
    let mut command = Command::new(words.next().expect("the agent at least"));
    command.args(words);
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if ["MISTRALRS_", "RING_", "LOCKSTEP_", "HF_"].iter().any(|prefix| name_text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Returns the folder of a model that the parity script made.
pub fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/fixtures").join(name);
    assert!(folder.exists(), "{} is missing", folder.display());
    folder.display().to_string()
}
